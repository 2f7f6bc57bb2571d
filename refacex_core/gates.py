"""The thresholds that decide whether a face is released: cosines on SFace between original and released face."""

from __future__ import annotations

from collections.abc import Mapping

#: The recogniser whose cosines these are.
GATE = "sface"
#: Good enough to stop trying donors: of the face as it is, and on average over what `recognisers.views` shows of it.
GOOD_SIMILARITY, GOOD_OVER_VIEWS = 0.15, 0.22
#: The most that is released: of the face as it is, before the payload is embedded and in the finished file, and before it on average
#: over its views as well.
MOST_SIMILARITY = 0.30
#: SFace takes this and more for one person: false accepts of 1 in 1000 on LFW.
SFACE_SAME_PERSON = 0.307
#: Pixels, longer side of the box; faces of 40 px have boxes of 36 and more.
SMALLEST_FACE = 36.0
#: What a recogniser gives for two different people, on average over LFW (`python -m training.evaluate`).
STRANGERS: Mapping[str, float] = {"sface": 0.084, "dlib": 0.882}
