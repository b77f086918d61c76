"""The page's content on wins of trials, on readings and on injected faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kmnist_pipeline.evaluation import winning
from kmnist_pipeline.faults import detection

WIDTH, MARGIN = 180, 8  # pixels of a strip, and of its empty ends


def with_wins(trials: list[dict[str, Any]], claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials of a study, each with its wins over seeds and its chance to win with one more.

    claims: judged; one about the winning point marks the trial that the publication names. Wins and
    chances are None if there is only one seed, because they would mean nothing.
    """
    values = np.array([trial["seeds"]["values"] for trial in trials])
    wins: list[Any] = [None] * len(trials)
    chances: list[Any] = list(wins)
    if min(values.shape) > 1:
        wins, chances = winning.wins(values), winning.chances(values)
    named = [c["reported"] for c in claims if (c["source"] or "").endswith(": winner")]
    points = [_point(reported) for reported in named]
    return [
        {**trial, "wins": won, "chance": chance, "published": _point(trial["name"]) in points}
        for trial, won, chance in zip(trials, wins, chances, strict=True)
    ]


def _point(text: str) -> list[str]:
    """The values of a point such as `lr=0.1,batch=64`; a publication may use other key names."""
    return [pair.partition("=")[2].strip() for pair in text.split(",")]


def readings(content: Mapping[str, Any], order: list[str]) -> dict[str, Any] | None:
    """The content of `readings.json` as the page shows it; None without claims about accuracy.

    order: the ids of the claims.
    """
    ours = {name: content["ours"][name] for name in content["order"]}
    stated = {name: content["claims"][name] for name in order if name in content["claims"]}
    if not stated:
        return None
    claims = {
        name: {
            **claim,
            "explained": claim["agree"] > 0,
            "by": claim["simplest"] and in_words(claim["simplest"], ours),
            "mover": max(claim["moves"].items(), key=lambda move: move[1]),
            "strip": _strip(claim),
        }
        for name, claim in stated.items()
    }
    best = [{**each, "words": in_words(each, ours)} for each in content["best"]]
    explained = sum(claim["explained"] for claim in claims.values())
    choices = {name: content["choices"][name] for name in content["order"]}
    shown = {"choices": choices, "claims": claims, "best": best, "explained": explained}
    return {**content, **shown}


def in_words(reading: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The choices in which a reading differs from ours, such as `loss sum, epochs 20`."""
    apart = [f"{name} {reading[name]}" for name in ours if reading[name] != ours[name]]
    return ", ".join(apart) or "our protocol"


def _strip(claim: Mapping[str, Any]) -> dict[str, float]:
    """The positions, in pixels, of the range over readings, the published value and ours."""
    values = {name: claim[name] for name in ("low", "high", "reported", "ours")}
    first, last = min(values.values()), max(values.values())
    scale = (WIDTH - 2 * MARGIN) / ((last - first) or 1.0)
    return {name: round(MARGIN + (value - first) * scale, 1) for name, value in values.items()}


def faults(
    content: Mapping[str, Any],
    detected: Mapping[str, Mapping[str, bool]],
    claims: list[dict[str, Any]],
) -> dict[str, Any] | None:
    """The faults and the claims that detect them, as the page shows them; None without such claims.

    content: of `faults.json`; detected: see `detection.matrix`; claims: judged.
    """
    if not detected:
        return None
    by_fault = detection.summary(detected)
    names = [name for name in content["catalogue"] if name in by_fault]
    rows = [
        {
            "claim": claim,
            "cells": [detected[claim["id"]].get(name) for name in names],
            "uninformative": not any(detected[claim["id"]].values()),
        }
        for claim in claims
        if claim["id"] in detected
    ]
    columns = [
        {"name": name, "says": content["catalogue"][name], "detected": len(by_fault[name])}
        for name in names
    ]
    found = sum(column["detected"] > 0 for column in columns)
    left_out = [name for name in content["catalogue"] if name not in by_fault]
    return {**content, "columns": columns, "rows": rows, "found": found, "left_out": left_out}
