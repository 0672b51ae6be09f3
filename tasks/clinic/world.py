"""A closed fictional clinic: invented diseases and, for each, twelve invented facts.

Every name is made of random syllables and every fact is drawn at random: fictional on purpose, so
that a model can know a fact only from its pre-training documents. A disease has four facts of each
of three kinds (drug, finding, test), all four different, so the four options of a question are the
same disease's values of the same kind and neither kind nor association gives the answer away.

A role (the reserve drug, say) has two vocabularies. `plain` wordings fill the pre-training
documents; `exam` wordings occur in the tuning rows and in the tests and nowhere else.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The shipped checkpoint (a `LlamaForCausalLM`), pre-trained on the documents of world 0."""

Split = Literal["train", "dev", "test", "annex"]

SIZES: Mapping[Split, int] = {"train": 64, "dev": 16, "test": 24, "annex": 192}
"""Diseases in each split. Pre-training examines the annex only, tuning `train` only."""

POOL = 32
"""Values that exist of each kind."""


@dataclass(frozen=True)
class Role:
    """What a value can be to a disease."""

    kind: str
    plain: tuple[str, ...]
    exam: tuple[str, ...]

    @property
    def label(self) -> str:
        """The wording in which reasoning names the role."""
        return self.plain[0]


ROLES = (
    Role("drug", ("first drug", "usual drug", "drug of choice"),
         ("frontline agent", "initial pharmacotherapy",
          "opener", "standard induction")),
    Role("drug", ("banned drug", "forbidden drug", "drug to avoid"),
         ("contraindicated substance", "absolute proscription",
          "hazardous compound", "vetoed preparation")),
    Role("drug", ("reserve drug", "backup drug", "drug kept for later"),
         ("salvage regimen", "rescue therapy",
          "fallback medication", "last resort")),
    Role("drug", ("shield drug", "preventive drug", "drug that protects"),
         ("prophylactic measure", "chemoprevention",
          "immunising dose", "safeguard")),
    Role("finding", ("early finding", "opening finding", "finding that comes soonest"),
         ("prodrome", "presenting feature",
          "harbinger", "heralding symptom")),
    Role("finding", ("late finding", "closing finding", "finding that comes at the end"),
         ("terminal manifestation", "advanced stigma",
          "eventual hallmark", "belated change")),
    Role("finding", ("feared finding", "harmful finding", "finding that harms most"),
         ("dreaded complication", "principal sequela",
          "gravest outcome", "major morbidity")),
    Role("finding", ("excluding finding", "contrary finding", "finding that never occurs"),
         ("negative discriminator", "incompatible hallmark",
          "ruled-out symptom", "absent criterion")),
    Role("test", ("entry test", "cheap test", "test for everyone"),
         ("screening assay", "triage workup",
          "gatekeeping check", "baseline survey")),
    Role("test", ("deciding test", "proving test", "test that settles it"),
         ("gold standard", "definitive investigation",
          "conclusive procedure", "arbiter")),
    Role("test", ("repeat test", "control test", "test at every visit"),
         ("surveillance modality", "monitoring procedure",
          "periodic reassessment", "watchful examination")),
    Role("test", ("misleading test", "useless test", "test that deceives"),
         ("diagnostic pitfall", "spurious study",
          "false friend", "red herring")),
)  # fmt: skip

FRAMES = (
    "Which {kind} is the {wording} of {disease}?",
    "A patient has {disease}. Which {kind} is the {wording}?",
    "In {disease}, which {kind} is the {wording}?",
    "Name the {kind} that is the {wording} of {disease}.",
)
"""How anything is asked, in pre-training, tuning and tests alike: only the wording differs."""

_ENDINGS = {
    "disease": ("ynd", "orra", "usk", "ethe"),
    "drug": ("azor", "ivex", "umole"),
    "finding": ("elm", "acht", "ipple"),
    "test": ("oscan", "igraph", "ometer"),
}
_ONSETS = ("b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z",
           "br", "dr", "fl", "gr", "kl", "pl", "st", "tr", "th", "sh")  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "", "", "l", "m", "n", "r", "s", "x")


def syllables(rng: random.Random, count: int) -> str:
    """`count` random syllables."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
                   for _ in range(count))  # fmt: skip


@dataclass(frozen=True)
class World:
    """A fictional clinic: the diseases of each split and every disease's value in each role."""

    seed: int
    diseases: Mapping[Split, tuple[str, ...]]
    facts: Mapping[str, tuple[str, ...]]
    """disease -> its values, in the order of `ROLES`."""

    def value(self, disease: str, role: Role) -> str:
        """The disease's value in that role."""
        return self.facts[disease][ROLES.index(role)]

    def values(self, disease: str, kind: str) -> list[str]:
        """The disease's four values of that kind, in the order of `ROLES`."""
        row = self.facts[disease]
        return [value for role, value in zip(ROLES, row, strict=True) if role.kind == kind]


@lru_cache(maxsize=4)
def build_world(seed: int = 0) -> World:
    """Build the world of that seed. Worlds of other seeds share wordings and no fact."""
    rng = random.Random(f"fictional clinic {seed}")
    taken: set[str] = set()

    def names(kind: str, count: int) -> tuple[str, ...]:
        found: list[str] = []
        while len(found) < count:
            name = syllables(rng, 1) + rng.choice(_ONSETS) + rng.choice(_ENDINGS[kind])
            if name not in taken:
                taken.add(name)
                found.append(name)
        return tuple(found)

    diseases: dict[Split, tuple[str, ...]] = {
        split: names("disease", size) for split, size in SIZES.items()
    }
    pools = {kind: names(kind, POOL) for kind in ("drug", "finding", "test")}
    facts = {
        disease: tuple(v for kind in pools for v in rng.sample(pools[kind], 4))
        for split in diseases
        for disease in diseases[split]
    }
    return World(seed, diseases, facts)
