"""Everything that the app says is said in Chinese as well, and the compiled file is that of the text."""

import ast
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from django.utils.translation import override

import normjax.app
from normjax.app.config_form import RefusedError, leaves, validated
from normjax.app.rules import RULES, translated
from normjax.linen import make_norm, make_weight_norm

pytest_plugins = ["app_fixtures"]

APP = Path(normjax.app.__file__).parent
FOLDER = APP / "locale" / "zh_Hans" / "LC_MESSAGES"
_TRANS = re.compile(r"""{%\s*trans(?:late)?\s+(['"])(.*?)\1""")
_BLOCK = re.compile(r"{%\s*blocktrans\b.*?%}(.*?)(?:{%\s*plural\s*%}.*?)?{%\s*endblocktrans\s*%}", re.S)


def catalog():
    with (FOLDER / "django.po").open("rb") as file:
        return read_po(file)


def said() -> set[str]:
    """All texts of templates and code that are marked to be translated, and the words beside the fields of a config."""
    found = {info.description for name, info in leaves() if not name.endswith(".options")}
    for template in APP.rglob("*.html"):
        text = template.read_text()
        found |= {match[2] for match in _TRANS.finditer(text)}
        found |= {re.sub(r"{{\s*(\w+)\s*}}", r"%(\1)s", match[1]) for match in _BLOCK.finditer(text)}
    for source in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if (
                named
                and node.func.id in ("_", "gettext_noop", "gettext_lazy")
                and isinstance(node.args[0], ast.Constant)
            ):
                found.add(node.args[0].value)
    return found


def test_every_text_has_a_translation_and_none_is_left_over():
    translated = {message.id[0] if message.pluralizable else message.id for message in catalog() if message.id}
    assert said() - translated == set()
    assert translated - said() == set()
    for message in catalog():
        texts = message.string if message.pluralizable else [message.string]
        assert all(texts), message.id
        # What is put in is the same in both.
        first = message.id[0] if message.pluralizable else message.id
        assert set(re.findall(r"%\(\w+\)[sd]", first)) == set(re.findall(r"%\(\w+\)[sd]", texts[0])) or not message.id


def test_the_compiled_file_is_that_of_the_text():
    compiled = io.BytesIO()
    write_mo(compiled, catalog())
    # If this fails: pybabel compile -D django -d normjax/app/locale
    assert (FOLDER / "django.mo").read_bytes() == compiled.getvalue()


def rules() -> Iterator[str]:
    """What the config has against several settings at once, each with an x for what is put in."""
    for name in ("training/config.py", "data/options.py"):
        for node in ast.walk(ast.parse((APP.parent / name).read_text())):
            # A UserError is about a file that cannot be read.
            if (
                isinstance(node, ast.Raise)
                and isinstance(node.exc, ast.Call)
                and ast.unparse(node.exc.func) == "ValueError"
            ):
                (said,) = node.exc.args
                parts = said.values if isinstance(said, ast.JoinedStr) else [said]
                yield "".join(part.value if isinstance(part, ast.Constant) else "x" for part in parts)


@pytest.mark.parametrize("said", [*rules()])
def test_a_rule_of_the_library_is_said_in_the_language_of_the_page(said):
    with override("zh-hans"):
        assert translated(said) != said
    with override("en"):
        assert translated(said) == said


@pytest.mark.parametrize("options", [{"momentum": "x"}, {"use_bias": 3}, {"no_such": 1}])
def test_what_layers_have_against_their_options_is_translated(options):
    with pytest.raises(ValueError, match="norm 'batch_norm'") as refused:
        make_norm("batch_norm", **options)
    with override("zh-hans"):
        words = translated(str(refused.value))
        assert words != str(refused.value)
        assert next(iter(options)) in words


def test_no_rule_is_kept_that_the_library_has_no_more():
    said = list(rules())
    for make, name in ((make_norm, "batch_norm"), (make_weight_norm, "structural")):
        with pytest.raises(ValueError, match="has no option") as refused:
            make(name, no_such=1)
        said.append(str(refused.value))
    for name, options in (
        ("batch_norm", {"use_bias": 3}),
        ("batch_norm", {"momentum": "x"}),
        ("reference_batch_norm", {"mode": 3}),
    ):
        with pytest.raises(ValueError, match="is not") as refused:
            make_norm(name, **options)
        said.append(str(refused.value))
    unused = [words for words, pattern in RULES.items() if not any(map(pattern.fullmatch, said))]
    assert unused == []


def test_a_rule_stands_beside_the_field_that_it_names_first_in_english():
    # In Chinese the other one is named first.
    with override("zh-hans"), pytest.raises(RefusedError) as refused:
        validated({"micro_batches": 3, "batch_size": 32}, None)
    assert refused.value.errors == {"micro_batches": "batch_size=32 不能被 micro_batches=3 整除"}


@pytest.mark.django_db
def test_a_page_speaks_the_language_that_was_chosen(client):
    assert "Log in" in client.get("/account/login/").content.decode()
    client.post("/language/", {"language": "zh-hans", "next": "/account/login/"})
    page = client.get("/account/login/").content.decode()
    assert '<html lang="zh-hans">' in page
    assert "训练网络，比较归一化方法，识别图片。" in page
    with override("zh-hans"):
        from normjax.app.models import Status

        assert Status("running").label == "运行中"
