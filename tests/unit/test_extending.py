"""Whatever a folder of plugins holds has its properties, and docs/extending.md shows how to add to it."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from sppo.config.plugins import FORMATS, OBJECTIVES, SELECTIONS
from sppo.config.reference import reference
from sppo.config.run import RunConfig, resolve
from sppo.errors import ConfigError

from .properties import PROPERTIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
KEYS = {OBJECTIVES: "train.objective", SELECTIONS: "rank.selection", FORMATS: "prepare.format"}
every_kind = pytest.mark.parametrize("plugins", KEYS, ids=KEYS.get)


@pytest.mark.parametrize(
    ("plugins", "name", "holds"),
    [(plugins, name, holds) for plugins in KEYS for name in plugins.names() for holds in PROPERTIES[plugins]],
    ids=lambda value: getattr(value, "__name__", value) if not hasattr(value, "package") else KEYS[value],
)
def test_a_plugin_has_the_properties_of_its_kind(plugins, name, holds):
    holds(name)


@every_kind
def test_the_example_of_the_page_is_found_and_has_them_too(plugins, tmp_path, monkeypatch):
    folder = plugins.package.replace(".", "/")
    ((file, code),) = re.findall(rf"^`{folder}/(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) <= 60
    (tmp_path / file).write_text(code)
    package, (name,) = import_module(plugins.package), [file.removesuffix(".py").replace("_", "-")]
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])

    assert name in plugins.names() and f" {KEYS[plugins]}={name}\n" in PAGE.replace(" prepare.prompt_column=chat", "")
    section, field = KEYS[plugins].split(".")
    assert getattr(getattr(resolve({KEYS[plugins]: name}), section), field) == name
    schema = RunConfig.model_json_schema()["$defs"][f"{section.title()}Config"]["properties"][field]
    assert schema["enum"] == plugins.names()
    assert re.search(rf"^\| `{KEYS[plugins]}` \|.*`{name}`", reference(), re.MULTILINE)
    for holds in PROPERTIES[plugins]:
        holds(name)


@every_kind
def test_a_name_that_is_not_known_is_answered_with_those_that_are(plugins):
    known = ", ".join(plugins.names())
    with pytest.raises(ConfigError) as caught:
        resolve({KEYS[plugins]: "nonsense"})
    assert str(caught.value) == f"{KEYS[plugins]}: 'nonsense' is not known; known are {known}"
    for wrong in ("base", "__init__", "length_matched", 5):
        with pytest.raises(ConfigError, match=KEYS[plugins]):
            resolve({KEYS[plugins]: wrong})
