"""Where each figure of a report's tables comes from: results.json, manifest and overlap.json of the
run, and report.json for what the report itself works out from the samples.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from medbench.harness.folder.store import RunFolder

from .tables import Cell, Row, Table

PERCENTILES = [f"{part}_ms_p{share}" for part in ("ttft", "tpot") for share in (50, 90, 99)]


class Sources:
    """The rows that the tables of *run* must have; ``of`` finds those of a table by its label."""

    def __init__(self, run: RunFolder) -> None:
        self.results, self.manifest = run.results(), run.manifest()
        self.report = json.loads((run / "report.json").read_text("utf-8"))
        checks = run / "overlap.json"
        self.checks = json.loads(checks.read_text("utf-8"))["checks"] if checks.is_file() else []
        self.seen: dict[str, int] = {}
        self.fixed: dict[str, Callable[[], list[Row]]] = {
            "Scores": self.scores, "Differences": self.differences, "Protocols": self.protocols,
            "Answers generated": self.answers, "Verdicts of the judge": self.judge,
            "Calibration": self.calibration, "Option order": self.orders,
            "Latency": self.latency, "Floors, throughput and memory": self.floors,
            "Accuracy against latency": self.front, "Stages": self.stages,
        }  # fmt: skip

    def of(self, table: Table) -> list[Row]:
        """The rows of *table*; several of one label come in their order.

        Raises:
            KeyError: Nobody has said where this table's figures come from.
        """
        label = table.label
        place = self.seen[label] = self.seen.get(label, -1) + 1
        if label in self.fixed:
            return self.fixed[label]()
        if label == "Pairs to read":
            return self.pairs([one for one in self.checks if one["pairs"]][place])
        if label == "Effect of the overlap":
            return self.effects([one for one in self.report["overlap"] if one["effects"]][place])
        if label.startswith("Memory of tuning "):
            return self.memory(label.removeprefix("Memory of tuning "))
        if label.endswith(" by subject"):
            return self.subjects(label.removesuffix(" by subject"))
        if label.endswith(" by protocol"):
            return self.by_protocol(self.report["protocols"][place])
        raise KeyError(label)

    # -- results.json --------------------------------------------------------------------------

    def parts(self) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
        """(name, group or task, its comparisons), groups first."""
        for name, group in self.results["groups"].items():
            yield name, group, group["comparisons"]
        for name, task in self.results["tasks"].items():
            compared = self.results["comparisons"]
            yield name, task, [one for one in compared if one["task"] == name]

    def scores(self) -> list[Row]:
        rows: list[Row] = []
        for name, part, _ in self.parts():
            members = [float(len(part["members"]))] if "members" in part else []
            (n, *_) = [one["n"] for one in part["scores"].values()] or [None]
            rows.append([[name, *members, n]])
            for model, one in part["scores"].items():
                rows.append([[model], score(one, part["metric"])])
        return rows

    def differences(self) -> list[Row]:
        rows: list[Row] = []
        for name, part, compared in self.parts():
            k = factor(part["metric"])
            for one in compared:
                lost, gained = one["discordant"] or (None, None)
                rows.append([
                    [name], [one["tuned"]], [one["n"]],
                    [k * one["difference"], *ends(one, k)], p_values(one["p"], one["p_holm"]),
                    [gained], [lost], [k * one["smallest_detectable"]],
                ])  # fmt: skip
        return rows

    def protocols(self) -> list[Row]:
        rows: list[Row] = []
        for name, task in self.results["tasks"].items():
            sizes = {model: one["n"] for model, one in task["scores"].items()}
            asked: Cell = [next(iter(sizes.values()))]
            if len(set(sizes.values())) > 1:
                asked = [part for size in sizes.items() for part in size]
            rows.append([[name], [task["protocol"]], [task["chance"]], asked])
        return rows

    def judge(self) -> list[Row]:
        rows: list[Row] = []
        for task in self.results["tasks"]:
            found = [one for one in self.results["judge"] if one["task"] == task]
            if found:
                rows.append([[task, found[0]["n"]]])
            for one in found:
                exact = self.results["tasks"][task]["scores"][one["model"]]["value"]
                told = one["agreement"]
                rows.append([
                    [one["model"]], score(one, "acc"), [exact],
                    [told["rate"], *ends(told, 100)], [told["kappa"]],
                    [told["judge_only"], told["exact_only"]],
                    [one["unreadable"], one["unanswered"]],
                ])  # fmt: skip
        return rows

    def calibration(self) -> list[Row]:
        rows: list[Row] = []
        for name, task in self.results["tasks"].items():
            known = {
                model: one["calibration"]
                for model, one in task["scores"].items() if one.get("calibration")
            }  # fmt: skip
            if not known:
                continue
            rows.append([[name]])
            for model, one in known.items():
                n = sum(part["n"] for part in one["bins"])
                sure, right = (
                    sum(part["n"] * part[key] for part in one["bins"]) / n
                    for key in ("confidence", "accuracy")
                )
                rows.append([[model], [sure], [right], [one["ece"]], [one["brier"]], [one["aurc"]]])
            if (chance := task["chance"]) is not None:
                rows.append([["chance"], [chance], [chance], [0], [1 - chance], [1 - chance]])
        return rows

    def orders(self) -> list[Row]:
        rows: list[Row] = []
        for name, task in self.results["tasks"].items():
            known = {model: one for model, one in task["scores"].items() if one.get("orders")}
            rows += [[[name]]] if known else []
            for model, one in known.items():
                found, floor = one["orders"], (one.get("noise") or {}).get("floor")
                rows.append([
                    [model], *([found[key]] for key in ("orders", "mean", "worst", "changed")),
                    [None if floor is None else 100 * floor],
                ])  # fmt: skip
        return rows

    def latency(self) -> list[Row]:
        return [
            [
                [row["model"]], [row["format"]], [row["provider"]], shape(row), [row["n"]],
                *([row.get(key)] for key in PERCENTILES),
            ]
            for row in self.results["latency"]
        ]  # fmt: skip

    def floors(self) -> list[Row]:
        rows: list[Row] = []
        for row in self.results["latency"]:
            times: list[Cell] = []
            for part, key in (("ttft", "ttft_floor_ms"), ("tpot", "token_floor_ms")):
                least, median = row.get(key), row[f"{part}_ms_p50"]
                between = row["intervals"][f"{part}_ms_p50"]
                times.append([None] if None in between else between)
                times.append([None] if least is None else [least, least / median])
            rest: list[Cell] = [[row.get("tokens_per_s")], [row.get("peak_bytes")]]
            rows.append([[row["model"]], [row["format"]], shape(row), *times, *rest])
        return rows

    # -- manifest and overlap.json -------------------------------------------------------------

    def memory(self, model: str) -> list[Row]:
        detail = self.manifest["stages"][f"tune/{model}"]["detail"]
        told, peak = detail["predicted"], detail.get("peak_bytes")
        rows: list[Row] = []
        for name, line in told["precisions"].items():
            parts = [line["weights"], line["adapter"] + line["gradients"], line["optimizer"],
                     line["activations"], line["peak"]]  # fmt: skip
            row: Row = [[name], *([part] for part in parts)]
            if peak:
                own = name == told["precision"]
                row += [[peak if own else None], [line["peak"] / peak - 1 if own else None]]
            rows.append(row)
        return rows

    def stages(self) -> list[Row]:
        return [
            [[name], [one["status"]], [one["seconds"]], []]
            for name, one in self.manifest["stages"].items()
        ]

    def pairs(self, check: dict[str, Any]) -> list[Row]:
        return [
            [
                [one["measure"]], [one["score"]],
                [str(one["train"]), one["train_text"]], [str(one["eval"]), one["eval_text"]],
            ]
            for one in check["pairs"][:10]
        ]  # fmt: skip

    # -- report.json: worked out from the samples ----------------------------------------------

    def answers(self) -> list[Row]:
        told = self.report["answers"]
        problems = dict.fromkeys(name for one in told for name in one["problems"])
        rows: list[Row] = []
        for one in told:
            scored = self.results["tasks"][one["task"]]["scores"][one["model"]]
            rows.append([
                [one["task"]], [one["model"]], [one["n"]], [scored["unparsed"]],
                *([one["problems"].get(name, 0.0)] for name in problems), [scored["truncated"]],
            ])  # fmt: skip
        return rows

    def subjects(self, task: str) -> list[Row]:
        (told,) = [one for one in self.report["subjects"] if one["task"] == task]
        metric = self.results["tasks"][task]["metric"]
        rows: list[Row] = []
        for line in told["lines"]:
            changes = [change(one, metric) for one in line["differences"]]
            means = [score(one, metric) for one in line["scores"]]
            rows.append([[line["subject"]], [line["n"]], *means, *changes])
        return rows

    def by_protocol(self, told: dict[str, Any]) -> list[Row]:
        return [
            [[model], *(score(one["score"], "acc") + change(one["change"], "acc") for one in cells)]
            for model, cells in told["models"].items()
        ]

    def effects(self, told: dict[str, Any]) -> list[Row]:
        rows: list[Row] = []
        for one in told["effects"]:
            metric = self.results["tasks"][one["task"]]["metric"]
            both = [change(one[key], metric) for key in ("all", "rest")]
            rows.append([[one["task"]], [one["tuned"]], [one["flagged"]], *both])
        return rows

    def front(self) -> list[Row]:
        return [
            [
                [place], [one["base"]], [one["runtime"]], [one["accuracy"]],
                [one["low"], one["high"]], [one["tpot_ms"]], ["yes" if one["best"] else "no"],
            ]
            for place, one in enumerate(self.report["front"]["points"], 1)
        ]  # fmt: skip


def factor(metric: str) -> float:
    """What an interval of accuracies is shown in: per cent, without its sign."""
    return 100.0 if metric == "acc" else 1.0


def ends(one: dict[str, Any], k: float) -> Cell:
    return [None if one[key] is None else k * one[key] for key in ("low", "high")]


def score(one: dict[str, Any], metric: str) -> Cell:
    return [one["value"], *ends(one, factor(metric))]


def change(one: dict[str, Any], metric: str) -> Cell:
    k = factor(metric)
    return [None if one["value"] is None else k * one["value"], *ends(one, k)]


def shape(row: dict[str, Any]) -> Cell:
    return [row["batch"], row["prompt_tokens"], row["output_tokens"]]


def p_values(p: float, holm: float) -> Cell:
    """p, and the adjusted one where that looks different."""
    looks = [f"{one:.{3 if one < 0.1 else 2}f}" if one >= 0.001 else "" for one in (p, holm)]
    return [p] if looks[0] == looks[1] else [p, "adjusted", holm]
