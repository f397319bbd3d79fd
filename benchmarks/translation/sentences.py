"""Sentences with numbers, dates, times and prices, made in English and German at once, from a seed.

A held-out sentence says something that no training sentence says in the same template: which words meet in it (thing
and adjective, name and city, …) is decided by a hash, and what belongs to the test never occurs in training.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from datetime import date, time, timedelta
from pathlib import Path

from babel.dates import format_date, format_time
from babel.numbers import format_currency, format_decimal, format_percent
from num2words import num2words

from .words import ADJECTIVES, CITIES, HABITS, NAMES, PEOPLE, PLACES, RELATIVES, THINGS, WEEKDAYS

Pair = tuple[str, str]
# What a template makes of random numbers: the two sentences, and which words meet in them.
Template = Callable[[random.Random], tuple[str, str, object]]

DER = {"m": "der", "f": "die", "n": "das"}
DEN = {"m": "den", "f": "die", "n": "das"}
DEM = {"m": "dem", "f": "der", "n": "dem"}
IM = {"m": "im", "f": "in der", "n": "im"}
EINEN = {"m": "einen", "f": "eine", "n": "ein"}
ENDING = {"m": "en", "f": "e", "n": "es"}  # of an adjective after einen, eine, ein
MEIN = {"m": "Mein", "f": "Meine"}
HELD_OUT = 12  # one in so many meetings of words belongs to the test
_LONGEST = 48  # characters of a pair that is taken from elsewhere


def a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def day(rng: random.Random) -> date:
    return date(1950, 1, 1) + timedelta(days=rng.randrange(29_000))


def clock(rng: random.Random) -> Pair:
    moment = time(rng.randrange(24), rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50)))
    return format_time(moment, "h:mm a", locale="en_US"), f"{format_time(moment, 'HH:mm', locale='de_DE')} Uhr"


def long_date(rng: random.Random) -> Pair:
    chosen = day(rng)
    return format_date(chosen, "MMMM d, y", "en_US"), format_date(chosen, "d. MMMM y", "de_DE")


def price(rng: random.Random) -> Pair:
    amount = rng.choice((rng.randrange(1, 60), rng.randrange(100, 9999) / 100, rng.randrange(1, 90) * 100))
    currency = rng.choice(("EUR", "USD"))
    german = format_currency(amount, currency, locale="de_DE").replace("\xa0", " ")
    return format_currency(amount, currency, locale="en_US"), german


def count(rng: random.Random, most: int = 100) -> tuple[int, str, str]:
    """A number from 2 up, in digits or in words."""
    number = rng.randrange(2, most)
    if rng.random() < 0.5:
        return number, format_decimal(number, locale="en_US"), format_decimal(number, locale="de_DE")
    return number, num2words(number), num2words(number, lang="de")


def costs(rng: random.Random) -> tuple[str, str, object]:
    english, _, german, gender, _ = rng.choice(THINGS)
    adjective, how = rng.choice(ADJECTIVES)
    left, right = price(rng)
    return (
        f"The {adjective} {english} costs {left}.",
        f"{DER[gender].title()} {how}e {german} kostet {right}.",
        (english, adjective),
    )


def buys(rng: random.Random) -> tuple[str, str, object]:
    english, _, german, gender, _ = rng.choice(THINGS)
    adjective, how = rng.choice(ADJECTIVES)
    name, (left, right) = rng.choice(NAMES), price(rng)
    return (
        f"{name} bought {a(adjective)} {english} for {left}.",
        f"{name} kaufte {EINEN[gender]} {how}{ENDING[gender]} {german} für {right}.",
        (name, english),
    )


def would_like(rng: random.Random) -> tuple[str, str, object]:
    _, english, _, _, german = rng.choice(THINGS)
    number, left, right = count(rng)
    return f"I would like {left} {english}, please.", f"Ich möchte bitte {right} {german}.", (english, number)


def train(rng: random.Random) -> tuple[str, str, object]:
    (start, von), (end, nach), (left, right) = rng.choice(CITIES), rng.choice(CITIES), clock(rng)
    return (
        f"The train from {start} to {end} leaves at {left}.",
        f"Der Zug von {von} nach {nach} fährt um {right} ab.",
        (start, end),
    )


def opens(rng: random.Random) -> tuple[str, str, object]:
    (english, german, gender), (day_en, day_de), (left, right) = rng.choice(PLACES), rng.choice(WEEKDAYS), clock(rng)
    return (
        f"On {day_en} the {english} opens at {left}.",
        f"Am {day_de} öffnet {DER[gender]} {german} um {right}.",
        (english, day_en),
    )


def said(rng: random.Random) -> tuple[str, str, object]:
    (english, german, gender), name, (left, right) = rng.choice(PLACES), rng.choice(NAMES), clock(rng)
    return (
        f"{name} said that the {english} closes at {left}.",
        f"{name} sagte, dass {DER[gender]} {german} um {right} schließt.",
        (english, name),
    )


def born(rng: random.Random) -> tuple[str, str, object]:
    (english, german, gender), (city, stadt), (left, right) = rng.choice(RELATIVES), rng.choice(CITIES), long_date(rng)
    return (
        f"My {english} was born in {city} on {left}.",
        f"{MEIN[gender]} {german} wurde am {right} in {stadt} geboren.",
        (english, city),
    )


def today(rng: random.Random) -> tuple[str, str, object]:
    chosen = day(rng)
    return (
        f"Today is {format_date(chosen, 'EEEE, MMMM d, y', 'en_US')}.",
        f"Heute ist {format_date(chosen, 'EEEE, d. MMMM y', 'de_DE')}.",
        (chosen.month, chosen.day),
    )


def where(rng: random.Random) -> tuple[str, str, object]:
    english, _, german, gender, _ = rng.choice(THINGS)
    place, ort, kind = rng.choice(PLACES)
    adjective, how = rng.choice(ADJECTIVES)
    return (
        f"The {english} in the {place} is {adjective}.",
        f"{DER[gender].title()} {german} {IM[kind]} {ort} ist {how}.",
        (english, place),
    )


def is_it(rng: random.Random) -> tuple[str, str, object]:
    english, _, german, gender, _ = rng.choice(THINGS)
    adjective, how = rng.choice(ADJECTIVES)
    relative, verwandt, kind = rng.choice(RELATIVES)
    mein = {"m": "meines", "f": "meiner"}[kind]
    genitive = verwandt + {"m": "s", "f": ""}[kind]
    return (
        f"Is the {english} of my {relative} {adjective}?",
        f"Ist {DER[gender]} {german} {mein} {genitive} {how}?",
        (english, relative),
    )


def share(rng: random.Random) -> tuple[str, str, object]:
    (_, english, german), (city, stadt) = rng.choice(PEOPLE), rng.choice(CITIES)
    part = rng.randrange(1, 1000) / 1000
    return (
        f"{format_percent(part, '0.0%', 'en_US')} of the {english} live in {city}.",
        f"{format_decimal(100 * part, '0.0', 'de_DE')} % der {german} leben in {stadt}.",
        (english, city),
    )


def distance(rng: random.Random) -> tuple[str, str, object]:
    (start, von), (end, nach), number = rng.choice(CITIES), rng.choice(CITIES), rng.randrange(20, 4000)
    return (
        f"It is {format_decimal(number, locale='en_US')} kilometres from {start} to {end}.",
        f"Von {von} nach {nach} sind es {format_decimal(number, locale='de_DE')} Kilometer.",
        (start, end),
    )


def weather(rng: random.Random) -> tuple[str, str, object]:
    (city, stadt), (day_en, day_de), number = rng.choice(CITIES), rng.choice(WEEKDAYS), rng.randrange(-15, 36)
    return (
        f"On {day_en} it will be {number} degrees in {city}.",
        f"Am {day_de} werden es {number} Grad in {stadt}.",
        (city, day_en),
    )


def rain(rng: random.Random) -> tuple[str, str, object]:
    (day_en, day_de), (place, ort, kind), (city, stadt) = rng.choice(WEEKDAYS), rng.choice(PLACES), rng.choice(CITIES)
    return (
        f"If it rains in {city} on {day_en}, we will stay in the {place}.",
        f"Wenn es am {day_de} in {stadt} regnet, bleiben wir {IM[kind]} {ort}.",
        (place, city),
    )


def visit(rng: random.Random) -> tuple[str, str, object]:
    (city, stadt), number, year = rng.choice(CITIES), rng.randrange(2, 20), rng.randrange(1990, 2030)
    return (
        f"This was our {num2words(number, to='ordinal')} visit to {city} in {year}.",
        f"Das war {year} unser {num2words(number, lang='de', to='ordinal')}r Besuch in {stadt}.",
        (number, city),
    )


def room(rng: random.Random) -> tuple[str, str, object]:
    number, floor = rng.randrange(100, 999), rng.randrange(1, 13)
    return (
        f"Your room has the number {number} and is on the {num2words(floor, to='ordinal')} floor.",
        f"Ihr Zimmer hat die Nummer {number} und liegt im {num2words(floor, lang='de', to='ordinal')}n Stock.",
        number,
    )


def sold(rng: random.Random) -> tuple[str, str, object]:
    _, english, _, _, german = rng.choice(THINGS)
    number, left, right = count(rng, 2000)
    month = date(2000, rng.randrange(1, 13), 1)
    return (
        f"In {format_date(month, 'MMMM', 'en_US')} the factory sold {left} {english}.",
        f"Im {format_date(month, 'MMMM', 'de_DE')} verkaufte die Fabrik {right} {german}.",
        (english, number % 50),
    )


def call(rng: random.Random) -> tuple[str, str, object]:
    name, (day_en, day_de), (left, right) = rng.choice(NAMES), rng.choice(WEEKDAYS), clock(rng)
    return (
        f"Please call {name} on {day_en} at {left}.",
        f"Bitte rufen Sie {name} am {day_de} um {right} an.",
        (name, day_en),
    )


def habit(rng: random.Random) -> tuple[str, str, object]:
    first, third, ich, er = rng.choice(HABITS)
    (place, ort, kind), name, (left, right) = rng.choice(PLACES), rng.choice(NAMES), clock(rng)
    if rng.random() < 0.5:
        english, german = f"I {first} in the {place} until {left}.", f"Ich {ich} bis {right} {IM[kind]} {ort}."
    else:
        english, german = f"{name} {third} in the {place} until {left}.", f"{name} {er} bis {right} {IM[kind]} {ort}."
    return english, german, (first, place)


def behind(rng: random.Random) -> tuple[str, str, object]:
    (_, english, german), (place, ort, kind) = rng.choice(PEOPLE), rng.choice(PLACES)
    _, left, right = count(rng, 500)
    return (
        f"There are {left} {english} in front of the {place}.",
        f"Vor {DEM[kind]} {ort} stehen {right} {german}.",
        (english, place),
    )


def give(rng: random.Random) -> tuple[str, str, object]:
    thing, _, ding, gender, _ = rng.choice(THINGS)
    name, (day_en, day_de) = rng.choice(NAMES), rng.choice(WEEKDAYS)
    return (
        f"Can you give {name} the {thing} on {day_en}?",
        f"Können Sie {name} am {day_de} {DEN[gender]} {ding} geben?",
        (name, thing),
    )


TEMPLATES: tuple[Template, ...] = (
    costs, buys, would_like, train, opens, said, born, today, where, is_it, share, distance, weather, rain, visit,
    room, sold, call, habit, behind, give,
)  # fmt: skip


def pairs(seed: int, *, held_out: bool) -> Iterator[Pair]:
    """Endless sentence pairs, English and German, of training or of the test; each occurs once."""
    rng, seen = random.Random(f"{seed} {held_out}"), set()
    while True:
        template = rng.choice(TEMPLATES)
        english, german, meeting = template(rng)
        mark = hashlib.sha256(f"{template.__name__} {meeting}".encode()).digest()
        if (mark[0] % HELD_OUT == 0) == held_out and english not in seen:
            seen.add(english)
            yield english, german


def read_extra(path: Path) -> list[Pair]:
    """The short ones of the pairs in a JSON file, a list of [English, German]; each English text once."""
    found = {en.strip(): de.strip() for en, de in json.loads(path.read_text(encoding="utf-8"))}
    return [(en, de) for en, de in found.items() if 0 < len(en) <= _LONGEST and 0 < len(de) <= _LONGEST]
