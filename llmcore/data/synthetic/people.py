"""Biographies, whose facts are known, and toy stories in simple words."""

from dataclasses import dataclass
from random import Random

from llmcore.data.synthetic.seeds import check_count, seeded


def _listed(text: str) -> list[str]:
    return text.split("," if "," in text else " ")


FIRST_NAMES = _listed(
    "Ada Boris Clara Dmitri Elena Felix Grace Hugo Iris Jonas Kira Leo Mara Nils Olga Pablo Rosa Stefan Tara Viktor"
)
MIDDLE_NAMES = _listed("Ann Beth Carl Dean Eve Fay Glen Hope Ivan Jade Kurt Lynn Max Nora Otto Pia Quinn Rex Sue Ted")
LAST_NAMES = _listed(
    "Abbott Becker Castro Dalton Evans Fischer Garcia Hansen Ibsen Jensen Keller Lopez Meyer Novak Olsen Peters Quirk Rossi Silva Turner"
)
CITIES = _listed("Lisbon Oslo Vienna Cairo Lima Kyoto Dublin Quito Hanoi Tunis Bergen Porto Turin Leeds Lyon Ghent")
UNIVERSITIES = _listed("Aldford Brightwater Castleton Deerfield Eastmoor Fairhaven Greyfield Highgate")
MAJORS = _listed("physics biology history music chemistry economics philosophy geology law medicine")
EMPLOYERS = _listed("Northwind Bluestone Redwood Silverline Clearwater Ironbridge Sunfield Greenleaf")
MONTHS = _listed("January February March April May June July August September October November December")

_TELLINGS = (
    ("{name} was born on {birthday}.", "{name} came into the world on {birthday}.", "The birthday of {name} is {birthday}."),
    ("{name} was born in {city}.", "{name} grew up in {city}.", "The home town of {name} is {city}."),
    ("{name} studied at {university} University.", "{name} is a graduate of {university} University."),
    ("{name} studied {major}.", "The field of {name} is {major}.", "{name} has a degree in {major}."),
    ("{name} works for {employer}.", "{name} is employed by {employer}.", "The employer of {name} is {employer}."),
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """One person of the biographies world; every fact is drawn by itself."""

    name: str
    birthday: str
    city: str
    university: str
    major: str
    employer: str

    def biography(self, seed: int, *, shuffle: bool = False) -> str:
        """Five sentences, one fact each, worded as the seed decides; shuffled sentences come in any order."""
        random = seeded(self.name, seed, 0)
        sentences = [random.choice(tellings).format(**vars(self)) for tellings in _TELLINGS]
        if shuffle:
            random.shuffle(sentences)
        return " ".join(sentences)

    def questions(self) -> list[tuple[str, str]]:
        """One question and its answer for each fact."""
        return [
            (f"When was {self.name} born?", self.birthday),
            (f"Where was {self.name} born?", self.city),
            (f"Where did {self.name} study?", f"{self.university} University"),
            (f"What did {self.name} study?", self.major),
            (f"Who does {self.name} work for?", self.employer),
        ]


def biographies(count: int, seed: int) -> list[Person]:
    """People with different names.

    >>> biographies(1, seed=0)[0].questions()[1]
    ('Where was Grace Ann Rossi born?', 'Cairo')

    Raises: ValueError for a negative count or more people than there are names (8,000).
    Source: Physics of Language Models part 3.1, arXiv:2309.14316, section 2.
    """
    check_count(count)
    n_names = len(FIRST_NAMES) * len(MIDDLE_NAMES) * len(LAST_NAMES)
    if count > n_names:
        raise ValueError(f"there are {n_names} different names, got count={count}")
    order = list(range(n_names))
    seeded("names", seed, 0).shuffle(order)
    people = []
    for index, number in enumerate(order[:count]):
        random = seeded("person", seed, index)
        first, rest = divmod(number, len(MIDDLE_NAMES) * len(LAST_NAMES))
        middle, last = divmod(rest, len(LAST_NAMES))
        people.append(
            Person(
                name=f"{FIRST_NAMES[first]} {MIDDLE_NAMES[middle]} {LAST_NAMES[last]}",
                birthday=f"{random.choice(MONTHS)} {random.randint(1, 28)}, {random.randint(1930, 2005)}",
                city=random.choice(CITIES),
                university=random.choice(UNIVERSITIES),
                major=random.choice(MAJORS),
                employer=random.choice(EMPLOYERS),
            )
        )
    return people


@dataclass(frozen=True)
class Story:
    """A tale, and a question about it whose answer stands in it."""

    text: str
    question: str
    answer: str


_HEROES = (("a little girl", "she", "her"), ("a little boy", "he", "his"), ("a small rabbit", "it", "its"), ("a young bear", "he", "his"), ("a clever fox", "she", "her"))  # fmt: skip
_THINGS = _listed("red ball,blue kite,toy boat,warm hat,shiny coin,picture book,wooden drum,yellow scarf")
_PLACES = _listed("in the garden,by the river,under a big tree,behind the house,at the park,near the old bridge")
_HELPERS = _listed("an old owl,a kind duck,a brown dog,a tall man,a busy bee,a gray mouse")
_FEELINGS = ("sad", "worried", "upset", "lost")
_LESSONS = ("A friend who helps is the best treasure.", "It is good to ask for help.", "Kind words make good friends.", "Never give up too soon.")  # fmt: skip


def stories(count: int, seed: int) -> list[Story]:
    """Short tales in simple words: someone loses a thing, meets a helper and finds it.

    >>> stories(1, seed=0)[0].question
    'Where was the yellow scarf?'

    Raises: ValueError for a negative count.
    Source: the idea of a small world of words, TinyStories, arXiv:2305.07759.
    """
    check_count(count)
    return [_story(seeded("story", seed, index)) for index in range(count)]


def _story(random: Random) -> Story:
    kind, they, their = random.choice(_HEROES)
    name, thing, helper = random.choice(FIRST_NAMES), random.choice(_THINGS), random.choice(_HELPERS)
    lost, found = random.sample(_PLACES, 2)
    opening = random.choice((f"Once upon a time there was {kind} named {name}.", f"One day {kind} named {name} went out to play."))  # fmt: skip
    trouble = random.choice((f"One morning the {thing} was gone.", f"But then {name} could not find the {thing}."))
    meeting = random.choice((f'{helper.capitalize()} came by and asked, "What is wrong?"', f'Soon {name} met {helper}, who said, "Let me help you."'))  # fmt: skip
    search = random.choice(
        (f"They looked {lost}, but it was not there.", f"First they looked {lost}, and found nothing.")
    )
    sentences = (
        opening,
        f"{name} loved {their} {thing} very much.",
        trouble,
        f"{name} was {random.choice(_FEELINGS)}.",
        meeting,
        search,
        f"Then they looked {found}, and there was the {thing}!",
        f"{name} was so happy that {they} thanked the {helper.split(' ', 1)[1]}.",
        random.choice(_LESSONS),
    )
    return Story(" ".join(sentences), f"Where was the {thing}?", found)
