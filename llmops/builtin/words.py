"""The words that invented facts are made of: people, places, things, and numbers as people say them.

Names are drawn from two lists each, so that there are thousands of them and a model must copy, not remember.
"""

from __future__ import annotations

from random import Random


def _listed(text: str, between: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(between))


FIRST = _listed(
    "Ada Anton Bela Bruno Carla Cora Dana David Edith Emil Fanny Felix Greta Hanna Hugo Ida Ivan Jana Jonas Karin "
    "Kurt Lena Leo Lia Lucas Mara Martin Mila Nadia Nico Nora Olga Oscar Paula Peter Petra Rosa Rudi Sara Simon Sofia "
    "Theo Tilda Tom Vera Viktor Wanda Yara"
)
LAST = _listed(
    "Abel Baker Becker Berg Brook Carter Cole Dahl Dean Falk Fisher Ford Frost Grant Green Hale Hill Holm Hunt Kern "
    "Lake Lang Marsh Mason Moss Nash North Page Park Penn Pine Reed Rivers Rose Sand Shaw Stone Swift Vale Wells West "
    "Wolf Wood Young"
)
PLACE = _listed(
    "Alder Amber Ash Birch Blue Bright Cedar Clear Copper Crystal Elm Fern Golden Grey Hazel Heron High Iron Ivy "
    "Juniper King Long Low Maple Mill Moon New Oak Old Otter Pearl Quiet Raven Red River Salt Silver South Spring "
    "Star Summer Sun Swan Thorn White Willow Winter"
)
SPOT = _listed(
    "Bay Beach Bridge Castle Cliff Corner Creek Cross Falls Field Ford Gate Glen Grove Harbour Haven Hill Hollow "
    "Island Lake Landing Market Meadow Mills Moor Park Point Pool Port Ridge Rock Shore Valley Village Water Wells"
)
FOOD = _listed(
    "apple pies|bean stew|cherry cakes|corn bread|fish soup|fried fish|garlic bread|ginger cakes|grilled cheese|"
    "hot chocolate|lemon cakes|lentil soup|mushroom soup|nut bread|onion soup|pancakes|pea soup|plum cakes|"
    "potato salad|roast chestnuts|roast pumpkin|rice balls|smoked fish|sweet dumplings|tomato soup|walnut cakes",
    "|",
)
MUSIC = _listed(
    "brass bands|choirs|church bells|drum circles|fiddle players|flute players|folk songs|guitar players|"
    "harp players|jazz bands|organ music|piano music|sea songs|street singers|string quartets|village bands",
    "|",
)
JOB = _listed(
    "actor|baker|boat builder|carpenter|cook|dentist|doctor|driver|farmer|gardener|judge|nurse|painter|pilot|"
    "plumber|potter|sailor|shepherd|singer|tailor|teacher|writer",
    "|",
)
COLOUR = _listed("amber beige black blue brown copper cream gold green grey orange pink purple red silver white yellow")
ANIMAL = _listed(
    "camel cat cow dog donkey duck fox goat goose hamster hen horse mouse otter owl parrot pony rabbit sheep"
)
THING = _listed(
    "basket bell book bottle bowl box brush button candle chair clock coat cup desk door drum flag glove hammer hat "
    "key kite knife ladder lamp letter map mirror needle pencil piano pillow plate ring rope shoe spoon stamp table "
    "ticket towel umbrella violin wheel window"
)
KEY = _listed(
    "age artist author city colour day food host job kind leader month name office owner place price town year"
)
GENRE = _listed("adventure comedy crime fantasy history horror love mystery poetry science travel war")
SKY = _listed("clear cloudy dry foggy rainy snowy stormy sunny wet windy")
DAY = _listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTH = _listed("January February March April May June July August September October November December")
NUMBER = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
COMMON = _listed(
    "the of and to in a is that it was for on are as with his they be at one have this from or had by not but what "
    "all were when we there can an your which their said if do will each about how up out them then she many some so "
    "these would other into has more her two like him see time could no make than first been its who now people my "
    "made over did down only way find use may water long little very after words called just where most know get "
    "through back much before go good new write our used me man too any day same right look think also around another "
    "came come work three word must because does part even place well such here take why things help put years "
    "different away again off went old number great tell men say small every found still between name should home big "
    "give air line set own under read last never us left end along while might next sound below saw something thought "
    "both few those always looked show large often together asked house world going want school important until form "
    "food keep children feet land side without boy once animals life enough took sometimes four head above kind began "
    "almost live page got earth need far hand high year mother light parts country father let night following picture "
    "being study second eyes soon times story boys since white days ever paper hard near sentence better best across "
    "during today others however sure means knew try told young miles sun ways thing whole hear example heard several "
    "change answer room sea against top turned learn point city play toward five using himself usually money seen car "
    "morning given price range customer rating average low moderate cheap located area riverside centre center family "
    "friendly families kids adults restaurant pub coffee shop serves serving offers offering provides providing eat "
    "drink breakfast dinner lunch menu meal Italian French English Chinese Indian Japanese fast star stars less "
    "situated beside close river outside town quality service excellent poor expensive affordable priced pound pounds "
    "welcome welcomes suitable question reply explain describe list repeat sort count summary translate rewrite short "
    "simple true false yes therefore value key text result total data model user system tool function call json "
    "string object array error input output file step street road station train ticket door window table garden music "
    "song book letter winter summer spring autumn evening week month hour minute hundred thousand million half "
    "quarter north south east west front behind inside company office worker market bank cost sell buy pay send "
    "receive open start stop begin finish win lose game team player match score friend brother sister daughter child "
    "doctor teacher student class language history science art nature tree flower bird fish horse weather rain snow "
    "wind cloud warm cold hot dry wet stay bring own along basket festival entry free"
)
"""Everyday words that the tokenizer knows whole, so that texts of other domains do not fall into letters."""
ONSET = _listed("b br c ch cl d dr f fl g gl gr h j k l m n p pl pr qu r s sh sl sp st str t th tr v w wh y z")
RIME = _listed(
    "a ace ad ain al an and ar at ay e ead ect ed en ent er ess et ick ie ight im in ing ion o ock on oo ook or ort ot "
    "ound our out ow u ull um un ur ure us y"
)
"""A word nobody has said is made of an onset and a rime for each syllable."""


def invented(draw: Random) -> str:
    """A word of one to three syllables that means nothing."""
    return "".join(draw.choice(ONSET) + draw.choice(RIME) for _ in range(draw.randrange(1, 4)))


def person(draw: Random) -> str:
    """A first and a last name, one of about two thousand."""
    return f"{draw.choice(FIRST)} {draw.choice(LAST)}"


def place(draw: Random) -> str:
    """A town's name of two words, one of about sixteen hundred."""
    return f"{draw.choice(PLACE)} {draw.choice(SPOT)}"


def article(noun: str) -> str:
    """The noun with `a` or `an` before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
