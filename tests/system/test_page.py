"""What MLflow's page shows of a run of the digits pipeline, read from it by a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.project import Project
from support.stores import Running, client_of

from kmnist_pipeline.tracking import views

SECONDS = 60
METRICS = "metrics/digits/digits_softmax"
MODELS = {"digits_cnn", "digits_sklearn_logistic", "digits_softmax", "digits_softmax_grid"}


class Site:
    """MLflow's page of the store that the digits run has made, as `make ui` serves it."""

    def __init__(self, uri: str, store: Path) -> None:
        self.uri = uri
        self.client = client_of(store)
        self.experiment = self.client.get_experiment_by_name("digits").experiment_id

    def add(self, item: str, parameters: dict[str, str], **tags: str) -> None:
        """Log an evaluation that no view of all classes lists."""
        tags = {"kmnist.kind": "evaluate", "kmnist.item": item, "kmnist.lineage": item} | tags
        run = self.client.create_run(self.experiment, tags=tags, run_name=f"{item} evaluate")
        for name, value in parameters.items():
            self.client.log_param(run.info.run_id, name, value)
        self.client.log_metric(run.info.run_id, "validation_accuracy", 1)
        self.client.set_terminated(run.info.run_id)

    def run(self, kind: str, item: str) -> str:
        """The address of a run's page."""
        wanted = f"tags.`kmnist.kind` = '{kind}' and tags.`kmnist.item` = '{item}'"
        (run,) = self.client.search_runs([self.experiment], wanted)
        return f"{self.uri}/#/experiments/{self.experiment}/runs/{run.info.run_id}"


@pytest.fixture(scope="module")
def site(digits_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    project = digits_run
    folder = tmp_path_factory.mktemp("ui")
    store = Path(shutil.copy(project.folder / "mlflow.db", folder))
    shutil.copytree(project.folder / "mlartifacts", folder / "mlartifacts")
    running = Running(project, folder, "--store", f"sqlite:///{store}")
    site = Site(running.uri, store)
    site.add("pair", {"classes": "[0, 6]"})
    site.add("tried", {}, **{"kmnist.experiment": "tried"})
    site.add("older", {}, **{"kmnist.superseded": "true"})
    site.add("manual", {}, **{"kmnist.lineage": views.BY_HAND})
    experiment = site.client.get_experiment(site.experiment)
    for tag, value in views.tags_of_experiment(experiment, [0, 6]).items():
        site.client.set_experiment_tag(site.experiment, tag, value)
    yield site
    assert running.end() == 0


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 2000, "height": 1000})
    context.set_default_timeout(SECONDS * 1000)
    yield context.new_page()
    context.close()


def seen(page: Any, selector: str) -> list[str]:
    """The texts of elements from left to right: the page does not keep them in that order."""
    placed = page.evaluate(
        "selector => [...document.querySelectorAll(selector)]"
        ".map(element => [element.getBoundingClientRect().x, element.innerText.trim()])",
        selector,
    )
    return [text for _, text in sorted(placed) if text]


def test_one_row_tells_all_of_a_model(site, page, digits_run):
    page.goto(f"{site.uri}/{views.url(site.experiment, views.MODELS)}")
    page.get_by_text("digits_softmax evaluate").wait_for()
    page.locator(".ag-header-cell", has_text="Duration").wait_for()
    assert seen(page, ".ag-header-cell") == [
        *("Run Name", "Created", "model", "validation_accuracy", "test_accuracy", "test_f1"),
        *("Dataset", "Duration"),
    ]
    names = page.locator("a[href*='/runs/']").all_inner_texts()
    assert {name for name in names if name} == {f"{model} evaluate" for model in MODELS}

    test = digits_run.json(f"{METRICS}/test.json")
    validation = digits_run.json(f"{METRICS}/validation.json")
    named = page.locator("[role=row]", has_text="digits_softmax evaluate").first
    row = seen(page, f"[role=row][row-index='{named.get_attribute('row-index')}'] [role=gridcell]")
    shown = ["softmax", *map(str, (validation["accuracy"], test["accuracy"], test["f1"]))]
    start = row.index("softmax")
    assert row[start : start + 4] == shown
    digest = test["made_by"]["data"]["data/processed/digits.npz"]
    assert row[start + 4].startswith(f"digits ({digest}")
    assert re.fullmatch(r"[\d.]+(ms|s|min)", row[start + 5])


def test_models_of_some_classes_do_not_rank_against_those_of_all(site, page):
    page.goto(f"{site.uri}/{views.url(site.experiment, f'{views.MODELS}-0-6')}")
    page.get_by_text("pair evaluate").wait_for()
    names = page.locator("a[href*='/runs/']").all_inner_texts()
    assert {name for name in names if name} == {"pair evaluate"}
    page.get_by_role("button", name="Models compared: classes 0, 6").wait_for()


def test_curves_overlay_by_epoch(site, page):
    page.goto(f"{site.uri}/{views.url(site.experiment, views.CURVES)}")
    page.locator(".js-plotly-plot .scatterlayer .trace").nth(11).wait_for(state="attached")
    charts = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].map(plot =>"
        " plot.data.map(line => [line.name, Array.from(line.x), Array.from(line.y)]))"
    )
    names = {"digits_cnn kfold-train", "digits_softmax kfold-train", "digits_softmax_grid tune"}
    lines = [{name: (x, y) for name, x, y in chart if name in names} for chart in charts]
    assert [set(chart) for chart in lines] == [names] * 4
    for title in ("validation/accuracy", "train/accuracy", "validation/loss", "train/loss"):
        assert page.get_by_text(title, exact=True).first.is_visible()

    wanted = "tags.`kmnist.kind` = 'kfold-train' and tags.`kmnist.item` = 'digits_softmax'"
    (run,) = site.client.search_runs([site.experiment], wanted)
    history = site.client.get_metric_history(run.info.run_id, "validation/accuracy")
    x, y = lines[0]["digits_softmax kfold-train"]
    assert (x, y) == ([point.step for point in history], [point.value for point in history])


def test_folds_and_trials_are_inside_their_runs(site, page):
    page.goto(f"{site.uri}/#/experiments/{site.experiment}/runs?workflowType=machine_learning")
    page.get_by_text("digits report", exact=True).wait_for()
    links = page.locator("[role=gridcell] a[href*='/runs/']")
    kinds = {"kfold-train", "tune", "evaluate", "conditions", "suspects", "loop"}
    kinds |= {"weights", "report"}
    assert {text.split()[1] for text in links.all_inner_texts()} == kinds
    for inside in ("seed 0 fold 0", "lr=0.1,batch_size=32"):
        assert page.get_by_text(inside, exact=True).count() == 0
    for run in ("digits_softmax kfold-train", "digits_softmax_grid tune"):
        row = page.locator("[role=row]", has=page.get_by_text(run, exact=True)).first
        row.locator("[data-testid=expander-button], button").first.click()
    for inside in ("seed 0 fold 0", "lr=0.1,batch_size=32"):
        page.get_by_text(inside, exact=True).first.wait_for(state="attached")


def test_the_description_of_an_experiment_leads_to_its_views(site, page):
    page.goto(f"{site.uri}/#/experiments/{site.experiment}/runs?workflowType=machine_learning")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="models compared").first.click()
    opened.value.get_by_role("button", name="Models compared").wait_for()
    opened.value.get_by_text("digits_softmax evaluate").wait_for()


def test_figures_and_reports_open(site, page):
    page.goto(site.run("evaluate", "digits_softmax") + "/artifacts/figures/confusion.png")
    page.wait_for_function(
        "[...document.images].some(i => i.src.startsWith('blob:') && i.naturalWidth > 300)"
    )
    page.goto(site.run("report", "digits") + "/artifacts/reports/index.html")
    page.frame_locator("iframe").get_by_role("heading").first.wait_for()


def test_the_description_of_a_run_leads_on(site, page, digits_run):
    page.goto(site.run("evaluate", "digits_softmax") + "?workflowType=machine_learning")
    page.get_by_text("kmnist trace figures/digits/digits_softmax").wait_for()
    key = digits_run.json(f"{METRICS}/test.json")["made_by"]["lineage"]
    assert page.get_by_text(key).first.is_visible()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="its training").click()
    opened.value.get_by_text("digits_softmax kfold-train").wait_for()
