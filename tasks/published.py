"""The data sets that medbench knows: where they are, what shape they have, what is odd in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from . import local


@dataclass(frozen=True)
class Local:
    """A folder of local files that can stand in for a source.

    Attributes:
        file: The file's name without its ending; None for the split's name or the only file.
        read: Brings its rows into the columns of the Hub data set.
        shots: The same for the file of few-shot examples.
    """

    folder: str
    file: str | None = None
    read: local.Reader = local.as_published
    shots: str | None = None
    read_shots: local.Reader | None = None


@dataclass(frozen=True)
class Source:
    """One data set: its Hub address, and under which terms its rows may be used.

    Attributes:
        hub: None when no Parquet copy is known; then only a local file serves.
        form: The columns its questions have (forms.py); None for rows that are no choices.
        options: How many every question has.
        questions: How many test questions the published data has.
        shots: The split that few-shot examples come from, never the test.
        tunable: A recipe may name it; test sets may not be tuned on.
        origin: Data sets of one origin hold the same questions in different columns.
        local: Folders of local files; one called like the source, in the Hub's columns, when empty.
        faults: Rows of the published data that have a known fault, by kind (integrity.py). They
            stay in the test, since every published figure has them.
    """

    hub: str | None
    config: str | None
    split: str
    licence: str
    revision: str = "main"
    form: str | None = None
    options: int | None = None
    questions: int | None = None
    shots: str | None = None
    tunable: bool = False
    origin: str | None = None
    local: tuple[Local, ...] = ()
    faults: Mapping[str, int] = field(default_factory=dict)


MMLU = {
    "anatomy": 135,
    "clinical_knowledge": 265,
    "college_biology": 144,
    "college_medicine": 173,
    "medical_genetics": 100,
    "professional_medicine": 272,
}
"""The six medical subjects of MMLU (Hendrycks et al. 2021), with their number of questions."""


def _mmlu(subject: str) -> Source:
    return Source(
        hub="cais/mmlu",
        config=subject,
        split="test",
        licence="MIT",
        form="mmlu",
        options=4,
        questions=MMLU[subject],
        shots="dev",
        local=(
            Local(f"mmlu_{subject}"),
            Local("mmlu_medical", f"{subject}_test", local.mmlu, f"{subject}_dev", local.mmlu),
        ),
    )


SOURCES = {
    "medical_o1_en": Source(
        hub="FreedomIntelligence/medical-o1-reasoning-SFT",
        config="en",
        split="train",
        licence="Apache-2.0",
        revision="fc2c9e8a37b38f38da6d449564a8c350b244aef4",
        tunable=True,
        origin="medical_o1_en",
        local=(Local("medical_o1_en", read=local.medical_o1),),
    ),
    "medical_o1_zh": Source(
        hub="FreedomIntelligence/medical-o1-reasoning-SFT",
        config="zh",
        split="train",
        licence="Apache-2.0",
        revision="fc2c9e8a37b38f38da6d449564a8c350b244aef4",
        tunable=True,
        local=(Local("medical_o1_zh", read=local.medical_o1),),
    ),
    "medical_o1_verifiable": Source(
        hub="FreedomIntelligence/medical-o1-verifiable-problem",
        config=None,
        split="train",
        licence="Apache-2.0",
        tunable=True,
        origin="medical_o1_en",
        local=(Local("medical_o1_verifiable"), Local("medical_o1_en", "demo_data")),
    ),
    "medqa_us_4options": Source(
        hub="GBaker/MedQA-USMLE-4-options",
        config=None,
        split="test",
        licence="MIT (jind11/MedQA)",
        revision="0fb93dd23a7339b6dcd27e241cb9b5eca62d4d18",
        form="medqa",
        options=4,
        questions=1273,
        shots="train",
        local=(Local("medqa_us_4options", read=local.medqa),),
    ),
    "medqa_us_5options": Source(
        hub="lavita/medical-qa-datasets",
        config="med-qa-en-5options-source",
        split="test",
        licence="MIT (jind11/MedQA)",
        form="medqa",
        options=5,
        questions=1273,
        shots="train",
        local=(Local("medqa_us_5options", read=local.medqa),),
    ),
    "medqa_zh_4options": Source(
        hub=None,
        config=None,
        split="test",
        licence="MIT (jind11/MedQA)",
        form="medqa",
        options=4,
        questions=3426,
        shots="train",
        local=(Local("medqa_zh_4options", read=local.medqa),),
    ),
    "medmcqa": Source(
        hub="openlifescienceai/medmcqa",
        config=None,
        split="validation",
        licence="MIT",
        form="medmcqa",
        options=4,
        questions=4183,
        shots="train",
        local=(Local("medmcqa"), Local("medmcqa_dev", read=local.medmcqa_released)),
        faults={"duplicated option": 21},
    ),
    "pubmedqa": Source(
        hub="bigbio/pubmed_qa",
        config="pubmed_qa_labeled_fold0_source",
        split="test",
        licence="MIT",
        form="pubmedqa",
        options=3,
        questions=500,
        shots="train",
        local=(
            Local("pubmedqa"),
            Local("pubmedqa_l", "ori_pqal", local.pubmedqa, "ori_pqal", local.pubmedqa_rest),
        ),
    ),
    **{f"mmlu_{subject}": _mmlu(subject) for subject in MMLU},
}
