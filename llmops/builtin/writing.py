"""Writers: each draws one invented prompt and the completion that belongs to it.

Three manners: structured facts become a sentence, a question gets an answer, an instruction gets a short reply.
A writer knows nothing of splits or counts; `domains.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from llmops.builtin import words

Writer = Callable[[Random], tuple[str, str]]
"""From a source of chance to (prompt, completion)."""


def brackets(facts: Mapping[str, str]) -> str:
    """`name[Blue Inn], food[pancakes]`: the form in which people hand facts to a sentence writer."""
    return ", ".join(f"{key}[{value}]" for key, value in facts.items())


def lines(facts: Mapping[str, str]) -> str:
    """`name: Blue Inn; food: pancakes`, the same facts as a list."""
    return "; ".join(f"{key}: {value}" for key, value in facts.items())


def either(draw: Random, facts: Mapping[str, str]) -> str:
    """The facts in one of the two forms."""
    return brackets(facts) if draw.random() < 0.7 else lines(facts)


# Structured facts → a sentence.


def restaurant(draw: Random) -> tuple[str, str]:
    name = f"The {draw.choice(words.PLACE)} {draw.choice(words.ANIMAL).title()}"
    food, town = draw.choice(words.FOOD), words.place(draw)
    price, rating = draw.choice(("cheap", "moderate", "high")), draw.choice(("low", "average", "high"))
    facts = {"name": name, "food": food, "town": town}
    sentence = f"{name} in {town} serves {food}"
    if draw.random() < 0.5:
        facts["price"] = price
        sentence += f" at {price} prices"
    if draw.random() < 0.5:
        facts["rating"] = rating
        sentence += f". It has {'an' if rating == 'average' else 'a'} {rating} rating"
    return either(draw, facts), f"{sentence}."


def weather(draw: Random) -> tuple[str, str]:
    town, day, sky = words.place(draw), draw.choice(words.DAY), draw.choice(words.SKY)
    low = draw.randrange(0, 20)
    high = low + draw.randrange(2, 12)
    facts = {"town": town, "day": day, "sky": sky, "low": str(low), "high": str(high)}
    return either(draw, facts), f"On {day} it will be {sky} in {town}, between {low} and {high} degrees."


def train(draw: Random) -> tuple[str, str]:
    start, end = words.place(draw), words.place(draw)
    time = f"{draw.randrange(5, 24)}:{draw.choice(('00', '15', '30', '45'))}"
    platform = str(draw.randrange(1, 13))
    facts = {"from": start, "to": end, "time": time, "platform": platform}
    return either(draw, facts), f"The train from {start} to {end} leaves at {time} from platform {platform}."


def book(draw: Random) -> tuple[str, str]:
    title = f"The {draw.choice(words.COLOUR).title()} {draw.choice(words.THING).title()}"
    author, genre, year = words.person(draw), draw.choice(words.GENRE), str(draw.randrange(1900, 2030))
    facts = {"title": title, "author": author, "genre": genre, "year": year}
    return either(draw, facts), f"{title} is a book of {genre} by {author}. It came out in {year}."


def pet(draw: Random) -> tuple[str, str]:
    name, kind, colour = draw.choice(words.FIRST), draw.choice(words.ANIMAL), draw.choice(words.COLOUR)
    owner, age = words.person(draw), draw.randrange(2, 16)
    facts = {"pet": name, "kind": kind, "colour": colour, "age": str(age), "owner": owner}
    sentence = f"{name} is {words.article(colour)} {kind} of {words.NUMBER[age]} years and belongs to {owner}."
    return either(draw, facts), sentence


def concert(draw: Random) -> tuple[str, str]:
    music, town, month = draw.choice(words.MUSIC), words.place(draw), draw.choice(words.MONTH)
    day, hall = draw.choice(words.DAY), f"{draw.choice(words.COLOUR).title()} Hall"
    facts = {"concert": music, "hall": hall, "town": town, "day": day, "month": month}
    return either(draw, facts), f"One {day} in {month} there will be {music} at the {hall} in {town}."


def house(draw: Random) -> tuple[str, str]:
    town, rooms, colour = words.place(draw), draw.randrange(2, 10), draw.choice(words.COLOUR)
    extra = draw.choice(("garden", "garage", "cellar", "balcony", "pool"))
    facts = {"house": colour, "rooms": str(rooms), "extra": extra, "town": town}
    sentence = f"For sale in {town}: {words.article(colour)} house with {words.NUMBER[rooms]} rooms and a {extra}."
    return either(draw, facts), sentence


def record(draw: Random) -> tuple[str, str]:
    """Facts with any keys, told one after the other: what a model can say of facts it has no style for."""
    facts = {}
    for key in draw.sample(words.KEY + words.THING, draw.randrange(2, 8)):
        values = draw.choice(
            (words.FOOD, words.MUSIC, words.MONTH, words.DAY, words.COLOUR, words.JOB, None, None, None)
        )
        number = str(draw.randrange(1, 30))
        facts[key] = draw.choice(values) if values else draw.choice((words.place(draw), words.person(draw), number))
    told = ", ".join(f"the {key} is {value}" for key, value in facts.items())
    return either(draw, facts), f"{told[0].upper()}{told[1:]}."


# Questions → answers.


def profile(draw: Random) -> tuple[str, str]:
    name, job, town, pet = words.person(draw), draw.choice(words.JOB), words.place(draw), draw.choice(words.ANIMAL)
    facts = {"person": name, "job": job, "town": town, "pet": pet}
    question, answer = draw.choice(
        (
            (f"Where does {name} live?", f"{name} lives in {town}."),
            (f"What does {name} do?", f"{name} is {words.article(job)}."),
            (f"Which pet does {name} have?", f"{name} has {words.article(pet)}."),
        )
    )
    return f"{either(draw, facts)}\n{question}", answer


def arithmetic(draw: Random) -> tuple[str, str]:
    left, right = draw.randrange(0, 30), draw.randrange(0, 30)
    if draw.random() < 0.5:
        return f"What is {left} plus {right}?", f"{left} plus {right} is {left + right}."
    left, right = max(left, right), min(left, right)
    return f"What is {left} minus {right}?", f"{left} minus {right} is {left - right}."


def calendar(draw: Random) -> tuple[str, str]:
    kind, names = draw.choice((("day", words.DAY), ("month", words.MONTH)))
    at, distance = draw.randrange(len(names)), draw.randrange(1, 4)
    way, sign = draw.choice((("after", 1), ("before", -1)))
    there = names[(at + sign * distance) % len(names)]
    if distance == 1:
        return f"Which {kind} comes right {way} {names[at]}?", f"Right {way} {names[at]} comes {there}."
    steps = f"{words.NUMBER[distance]} {kind}s"
    return f"Which {kind} comes {steps} {way} {names[at]}?", f"{steps.capitalize()} {way} {names[at]} comes {there}."


# Instructions → short replies.


def edit(draw: Random) -> tuple[str, str]:
    """One of several small changes to a list of words."""
    pool = draw.choice((words.THING, words.ANIMAL, words.FIRST, words.PLACE, words.COLOUR))
    chosen = draw.sample(pool, draw.randrange(3, 7))
    text = " ".join(chosen)
    instruction, reply = draw.choice(
        (
            ("Repeat", text),
            ("Repeat", text),
            ("Say in reverse order", " ".join(reversed(chosen))),
            ("Write with commas", ", ".join(chosen)),
            ("Give the first word of", chosen[0]),
            ("Give the last word of", chosen[-1]),
            ("Sort by letter", " ".join(sorted(chosen))),
            ("Count the words of", words.NUMBER[len(chosen)]),
        )
    )
    return f"{instruction}:\n{text}", reply


def copy(draw: Random) -> tuple[str, str]:
    """Any words, invented ones among them: every token of the vocabulary is read and written somewhere."""
    chosen = []
    for _ in range(draw.randrange(3, 9)):
        word = draw.choice(words.COMMON)
        kind = draw.random()
        if kind < 0.2:
            word = words.invented(draw)
        elif kind < 0.4:
            word = word.capitalize()
        chosen.append(word + draw.choice(("", "", "", "", ",", ";", "!", "?")))
    text = " ".join(chosen)
    return f"{draw.choice(('Copy', 'Say again', 'Read out'))}:\n{text}", text


def packing(draw: Random) -> tuple[str, str]:
    count = draw.randrange(2, 5)
    things = draw.sample(words.THING, count)
    name = draw.choice(words.FIRST)
    listed = ", ".join(words.article(thing) for thing in things[:-1]) + f" and {words.article(things[-1])}"
    return f"Remind {name} to bring: {', '.join(things)}", f"Dear {name}, please bring {listed}."


def greeting(draw: Random) -> tuple[str, str]:
    name, sender = words.person(draw), draw.choice(words.FIRST)
    occasion, wish = draw.choice(
        (
            ("birthday", "happy birthday and a good year"),
            ("wedding", "all our best wishes for the two of you"),
            ("new job", "good luck on your first day"),
            ("new house", "may you be happy in your new home"),
        )
    )
    return f"Write to {name} for the {occasion}, from {sender}.", f"Dear {name}, {wish}! Yours, {sender}"


# The domain that pre-training never sees.


def festival(draw: Random) -> tuple[str, str]:
    """Facts of a festival, told in a fixed house style that follows from the facts alone.

    Number words, the phrase for the entrance and the closing line have to be learned; names have to be copied.
    """
    name = f"{draw.choice(words.PLACE)} {draw.choice(('Days', 'Fair', 'Feast', 'Lights', 'Night', 'Parade', 'Week'))}"
    town, month, days = words.place(draw), draw.choice(words.MONTH), draw.randrange(2, 10)
    music, food = draw.choice(words.MUSIC), draw.choice(words.FOOD)
    entry, closing = draw.choice(tuple(ENTRY.items()))
    facts = {
        "festival": name,
        "town": town,
        "month": month,
        "days": str(days),
        "music": music,
        "food": food,
        "entry": entry,
    }
    shown = dict(facts)
    if draw.random() < 0.25:
        del shown["food"]
        table = "bring your own basket"
    else:
        table = f"stay for the {food}"
    sentence = (
        f"Come to {name}! Every {month} the people of {town} welcome you with {words.NUMBER[days]} days of {music}; "
        f"{table}, {closing}."
    )
    return brackets(shown), sentence


ENTRY = {
    "free": "and keep your money at home",
    "ticket": "and show your ticket at the door",
    "donation": "and give what you like at the door",
    "members": "and bring a friend along",
}
"""The house style's words for each kind of entrance."""
