"""Calls from Python with values of a wrong type, and what the sentence says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import understudy
from understudy.verbs import speech

U: Any = understudy  # a caller whose types nobody checks
X, Y = torch.zeros(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64)


def _train(**options: Any) -> Callable[[Path], object]:
    return lambda run: U.train(**{"data": "digits", "model": "mlp:8x1", "run": "new"} | options)


def _distill(**options: Any) -> Callable[[Path], object]:
    return lambda run: U.distill(**{"data": "digits", "teacher": run, "student": "mlp:8x1", "run": "new"} | options)


CALLS: tuple[tuple[str, Callable[[Path], object], str], ...] = (
    ("train(data=None)", _train(data=None), "DATA is missing|cannot open"),
    ("train(data=3)", _train(data=3), "cannot open data from 'int'"),
    ("train(data=[])", _train(data=[]), "cannot open data|data"),
    ("train(data={})", _train(data={}), "."),
    ("train(data=())", _train(data=()), "."),
    ("train(data=b'')", _train(data=b""), "cannot open"),
    ("train(data=Path(NUL))", _train(data=Path("a\0b")), "control"),
    ("train(data=(x,))", _train(data=(X,)), "cannot open"),
    ("train(data=(x, y, y))", _train(data=(X, Y, Y)), "cannot open"),
    ("train(data=(x, y[:3]))", _train(data=(X, Y[:3])), "."),
    ("train(data=(x, floats))", _train(data=(X, torch.zeros(8))), "."),
    ("train(data=(nan, y))", _train(data=(X * torch.nan, Y)), "."),
    ("train(data=(empty, empty))", _train(data=(X[:0], Y[:0])), "."),
    ("train(data=(strings, y))", _train(data=(np.array(["a"] * 8), Y)), "."),
    ("train(model=None)", _train(model=None), "--model is missing|model"),
    ("train(model=3)", _train(model=3), "."),
    ("train(model=torch.nn.Linear)", _train(model=torch.nn.Linear), "."),
    ("train(model=[])", _train(model=[]), "."),
    ("train(model='')", _train(model=""), "--model is missing"),
    ("train(model=no classes)", _train(model=torch.nn.Flatten()), "."),
    ("train(model=wrong input)", _train(model=torch.nn.Linear(3, 10)), "."),
    ("train(lr='fast')", _train(lr="fast"), "lr.*number"),
    ("train(lr=None)", _train(lr=None), "lr.*number"),
    ("train(lr=nan)", _train(lr=float("nan")), "lr.*finite"),
    ("train(lr=inf)", _train(lr=float("inf")), "lr.*finite"),
    ("train(lr=True)", _train(lr=True), "lr.*number"),
    ("train(lr=[0.1])", _train(lr=[0.1]), "lr.*number"),
    ("train(lr=tensor)", _train(lr=torch.ones(3)), "lr.*number"),
    ("train(lr=1j)", _train(lr=1j), "lr.*number"),
    ("train(epochs=2.5)", _train(epochs=2.5), "epochs.*integer"),
    ("train(epochs='two')", _train(epochs="two"), "epochs.*integer"),
    ("train(epochs=True)", _train(epochs=True), "epochs.*number"),
    ("train(epochs=None)", _train(epochs=None), "epochs.*integer"),
    ("train(epochs=10**30)", _train(epochs=10**30), "epochs.*less"),
    ("train(seed=-1)", _train(seed=-1), "seed.*greater"),
    ("train(seed=2**64)", _train(seed=2**64), "seed.*less"),
    ("train(seed=nan)", _train(seed=float("nan")), "seed"),
    ("train(optimizer=3)", _train(optimizer=3), "optimizer"),
    ("train(optimizer={'lr': nan})", _train(optimizer={"lr": float("nan")}), "lr.*finite"),
    ("train(optimizer={3: 4})", _train(optimizer={3: 4}), "."),
    ("train(optimizer='adam')", _train(optimizer="adam"), "sgd"),
    ("train(augmentation=[])", _train(augmentation=[]), "augmentation"),
    ("train(only_classes='3')", _train(only_classes="3"), "only_classes"),
    ("train(only_classes=[3.5])", _train(only_classes=[3.5]), "only_classes"),
    ("train(only_classes=[None])", _train(only_classes=[None]), "only_classes"),
    ("train(pair={'depth': None})", _train(pair={"depth": None}), "."),
    ("train(pair=3)", _train(pair=3), "pair"),
    ("train(precision=16)", _train(precision=16), "precision"),
    ("train(flip='maybe')", _train(flip="maybe"), "flip"),
    ("train(nothing=3)", _train(nothing=3), "unknown key 'nothing'"),
    ("train(epoch=3)", _train(epoch=3), "epochs"),
    ("train(kind='distill')", _train(kind="distill"), "kind"),
    ("train(run='')", _train(run=""), "empty"),
    ("train(run=3)", _train(run=3), "path"),
    ("train(run=b'a')", _train(run=b"a"), "path"),
    ("train(run=NUL)", _train(run="a\0b"), "control"),
    ("train(run=long)", _train(run="x" * 5000), "too long"),
    ("train(run=~nobody)", _train(run="~nobody-is-called-so/a"), "no user"),
    ("train(run=Path(a file)/a)", _train(run=Path(__file__) / "a"), "is not a folder"),
    ("distill(teacher=None)", _distill(teacher=None), "--teacher is missing|teacher"),
    ("distill(teacher=[])", _distill(teacher=[]), "--teacher is missing"),
    ("distill(teacher=3)", _distill(teacher=3), "teacher"),
    ("distill(teacher=mix)", lambda run: U.distill("digits", [run, torch.nn.Flatten()], "mlp:8x1"), "mix"),
    ("distill(student=None)", _distill(student=None), "--student is missing"),
    ("distill(student=3)", _distill(student=3), "."),
    ("distill(method=None)", _distill(method=None), "method"),
    ("distill(method=3)", _distill(method=3), "method"),
    ("distill(method=[3])", _distill(method=[3]), "method"),
    ("distill(method=())", _distill(method=()), "method"),
    ("distill(objective='kd')", _distill(objective="kd"), "objective"),
    ("distill(objective=[{}])", _distill(objective=[{}]), "objective"),
    ("distill(temperature=0)", _distill(temperature=0), "temperature"),
    ("distill(temperature=nan)", _distill(temperature=float("nan")), "temperature.*finite"),
    ("distill(transfer_set=3)", _distill(transfer_set=3), "cannot open|transfer_set"),
    ("distill(student_taps='a')", _distill(student_taps="a"), "student_taps"),
    ("transfer(backbone=None)", lambda run: U.transfer("digits", None), "--backbone is missing"),
    ("transfer(shots=[0])", lambda run: U.transfer("digits", run, shots=[0]), "shots"),
    ("transfer(shots=[None])", lambda run: U.transfer("digits", run, shots=[None]), "shots"),
    ("few_shots(shots=[])", lambda run: U.few_shots("digits", run, []), "shots is empty"),
    ("suite('digits')", lambda run: U.suite("digits", run), "list of tasks"),
    ("suite([])", lambda run: U.suite([], run), "DATA is missing"),
    ("suite([3])", lambda run: U.suite([3], run), "."),
    ("compress(budget=nan)", lambda run: U.compress("digits", run, "cnn:4", budget=float("nan")), "budget"),
    ("compress(budget=-1)", lambda run: U.compress("digits", run, "cnn:4", budget=-1.0), "budget"),
    ("compress(budget=[])", lambda run: U.compress("digits", run, "cnn:4", budget=[]), "budget"),
    ("specialists(clusters=None)", lambda run: U.specialists("digits", run, clusters=None), "clusters"),
    ("evaluate(None, ...)", lambda run: U.evaluate(None, "digits"), "path"),
    ("evaluate(3, ...)", lambda run: U.evaluate(3, "digits"), "path"),
    ("evaluate(run, None)", lambda run: U.evaluate(run, None), "cannot open data"),
    ("evaluate(size='big')", lambda run: U.evaluate(run, "digits", size="big"), "size"),
    ("evaluate(size=2.5)", lambda run: U.evaluate(run, "digits", size=2.5), "size"),
    ("evaluate(split=3)", lambda run: U.evaluate(run, "digits", split=3), "split"),
    ("evaluate(teacher=[None])", lambda run: U.evaluate(run, "digits", teacher=[None]), "path"),
    ("evaluate(class_bias=['3=nan'])", lambda run: U.evaluate(run, "digits", class_bias=["3=nan"]), "finite"),
    ("predict(None, ...)", lambda run: U.predict(None, ["a.png"]), "path"),
    ("predict(run, [])", lambda run: U.predict(run, []), "no images"),
    ("predict(run, [None])", lambda run: U.predict(run, [None]), "path"),
    ("predict(run, top=0)", lambda run: U.predict(run, [__file__], top=0), "top"),
    ("predict(run, top=-1)", lambda run: U.predict(run, [__file__], top=-1), "top"),
    ("predict(run, top=2.5)", lambda run: U.predict(run, [__file__], top=2.5), "top"),
    ("probe(run)", lambda run: U.probe(run), "no data"),
    ("probe(run, None)", lambda run: U.probe(run, None), "cannot open data"),
    ("probe({})", lambda run: U.probe({}, "digits"), "no network"),
    ("export(run, format=[])", lambda run: U.export(run, format=[]), "no format"),
    ("export(run, format=[3])", lambda run: U.export(run, format=[3]), "format"),
    ("export(run, calibrate=0)", lambda run: U.export(run, format="int8", calibrate=0), "calibrate"),
    ("export(run, calibrate=2.5)", lambda run: U.export(run, format="int8", calibrate=2.5), "calibrate"),
    ("export(run, tolerance=nan)", lambda run: U.export(run, format="int8", tolerance=float("nan")), "tolerance"),
    ("export(run, out=3)", lambda run: U.export(run, out=3), "path"),
    ("resume(None)", lambda run: U.resume(None), "path"),
    ("open_source(size=-1)", lambda run: U.open_source("digits", size=-1), "size"),
    ("open_source(size=10**9)", lambda run: U.open_source("digits", size=10**9), "size"),
    ("run_config({})", lambda run: U.run_config({}), "kind"),
    ("run_config({'kind': []})", lambda run: U.run_config({"kind": []}), "kind"),
    ("run_config(None)", lambda run: U.run_config(None), "path"),
    ("run_config({3: 4})", lambda run: U.run_config({3: 4}), "kind"),
    ("dry_run('')", lambda run: U.dry_run(""), "empty"),
    ("speech.prepare(None)", lambda run: speech.prepare(None), "path"),  # type: ignore[arg-type]
    ("speech.prepare(states=0)", lambda run: speech.prepare(run, states=0), "states"),
    ("speech.decode(run, [])", lambda run: speech.decode(run, []), "."),
)
