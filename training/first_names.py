"""First names that nearly always are a woman's, or a man's: how the photographs of LFW, which are filed under names, come to labels."""

from __future__ import annotations

_WOMEN = """
Alexandra Alicia Alison Allison Amanda Amy Ana Angela Angelina Ann Anna Anne Annette Barbara Beth Betty Brenda Brooke
Carla Carol Carolina Caroline Carrie Cate Catherine Celine Charlotte Chelsea Cheryl Christina Christine Cindy Claire
Claudia Daniela Debbie Deborah Debra Denise Diana Diane Dolores Donna Dorothy Elena Elisabeth Elizabeth Ellen Emily Emma
Erin Eva Fernanda Gisele Gloria Goldie Grace Gwyneth Halle Hannah Heather Helen Hilary Hillary Ingrid Isabel Isabella
Jacqueline Jane Janet Janica Jeanne Jelena Jennie Jennifer Jenny Jessica Joan Joanna Joanne Jodie Judi Judy Julia Julie
Juliette Justine Karen Kate Katherine Kathleen Kathryn Kathy Katie Kristen Kristin Kristy Laura Lauren Laurie Linda
Lindsay Lisa Lucy Lynn Madonna Magdalena Margaret Maria Mariah Marie Marina Martha Mary Meg Megan Melissa Meryl Mia
Michelle Monica Monique Nadia Nancy Naomi Natalie Natasha Nia Nicole Olivia Pamela Patricia Paula Penelope Petra
Princess Queen Rachel Rebecca Renee Rita Rosa Rose Roseanne Ruth Sally Salma Samantha Sandra Sara Sarah Serena Sharon
Sheila Sheryl Sigourney Sofia Sophia Sophie Stephanie Sue Susan Suzanne Svetlana Tanya Tara Tatiana Teresa Tina Uma
Valerie Vanessa Venus Veronica Victoria Virginia Wendy Whitney Winona Yoko Yolanda Zoe
"""
_MEN = """
Abdullah Adam Ahmed Al Alan Alberto Alejandro Ali Andre Andrew Andy Anthony Antonio Barry Ben Benjamin Bernard Bill Bob
Brad Brian Bruce Bryan Carlos Charles Christopher Chuck Colin Craig Daniel Danny Dave David Dean Dennis Derek Dick
Donald Doug Douglas Ed Eddie Edward Enrique Eric Felix Fernando Frank Fred Gabriel Gary Gene George Gerard Gordon Greg
Guillermo Gustavo Hank Hans Henry Herb Howard Hugh Ian Ibrahim Ismail Ivan Jack James Jason Javier Jeff Jeffrey Jeremy
Jerry Jim Jimmy Joe John Johnny Jon Jonathan Jorge Jose Joseph Joshua Juan Juergen Julio Justin Keith Ken Kenneth Kevin
Kurt Larry Lawrence Luis Manuel Marc Marco Mario Mark Martin Matt Matthew Max Michael Michel Miguel Mike Mitchell
Mohamed Mohammad Mohammed Nick Omar Patrick Paul Pedro Peter Phil Pierre Prince Ralph Randy Raul Ray Ricardo Richard
Rick Ricky Rob Robert Roberto Rod Roger Ron Ronald Roy Ryan Scott Sean Stanley Stephen Steve Steven Ted Thomas Tim
Timothy Todd Tom Tommy Tony Will William Wolfgang
"""
WOMEN, MEN = frozenset(_WOMEN.split()), frozenset(_MEN.split())


def read_as_female(name: str) -> bool | None:
    """By a file's name as LFW has it (`Ada_Lovelace/Ada_Lovelace_0001.jpg`); None where the first name does not say."""
    first = name.rsplit("/", 1)[-1].split("_")[0]
    if first in WOMEN:
        return True
    return False if first in MEN else None
