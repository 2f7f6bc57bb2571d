"""What can go wrong with an engine. The docstring is the message shown to people."""

from __future__ import annotations


class EngineError(Exception):
    """An engine could not be used."""

    code = "engine_error"

    def __init__(self, detail: str = "") -> None:
        doc = " ".join((type(self).__doc__ or "").split())
        self.detail = detail
        super().__init__(f"{doc} ({detail})" if detail else doc)


class EngineMissing(EngineError):
    """An embedded engine is not installed: `pip install 'refacex[engines]'`, or name a server of your own in REFACEX_EXTERNAL_*_URL."""

    code = "engine_missing"


class EngineUnsupported(EngineError):
    """Embedded engines need Linux: name servers of your own in REFACEX_EXTERNAL_*_URL."""

    code = "engine_unsupported"


class EngineFailed(EngineError):
    """An engine did not come up: read the end of its log."""

    code = "engine_failed"


class EngineUnknown(EngineError):
    """There is no embedded engine of that name."""

    code = "engine_unknown"


class EngineExternal(EngineError):
    """This engine is a server of your own: stop or start it where it runs."""

    code = "engine_external"


class EngineUrlInvalid(EngineError):
    """An external engine's URL cannot be used: write SCHEME://USER:PASSWORD@HOST:PORT."""

    code = "engine_url_invalid"


class HomeInUse(EngineError):
    """Another process keeps the engines of this home folder: stop it, or choose another folder with REFACEX_HOME."""

    code = "home_in_use"


class HomeUnusable(EngineError):
    """The home folder cannot be used: check its rights and free space, or choose another with REFACEX_HOME."""

    code = "home_unusable"


class HomeNotReady(HomeUnusable):
    """Nothing was set up in this home folder: run `refacex setup` or `refacex up`, or choose another with REFACEX_HOME."""

    code = "home_not_ready"
