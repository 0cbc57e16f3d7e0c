"""The story of a lab in a real browser, and every page looked at by axe, in light, in dark and on a phone."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from app_cases import PASSWORD, digit_png, png, totp
from sklearn.datasets import load_digits

pytest_plugins = ["app_fixtures"]
pytestmark = pytest.mark.browser

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra browser")
expect = playwright.expect

# Where pictures of all pages are kept to be looked at; nowhere by default.
SCREENSHOTS = os.environ.get("NORMJAX_SCREENSHOTS")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1180, "height": 820}


def new_page(chromium, server, **options):
    """A page whose complaints fail the test: scripts that fail, and what the policy of contents forbids."""
    context = chromium.new_context(base_url=server.address, viewport=DESK, accept_downloads=True, **options)
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.complaints = complaints
    return page


def serious(page):
    found = axe.Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found if v["impact"] in ("serious", "critical")]


def look(page, name):
    """Axe in light, in dark and on a phone; no page is wider than its window."""
    for scheme, size in (("light", DESK), ("dark", DESK), ("light", PHONE), ("dark", PHONE)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        assert serious(page) == [], f"{name}, {scheme}, {size['width']}"
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is {wide} pixels wider than a window of {size['width']}"
        if SCREENSHOTS:
            path = Path(SCREENSHOTS) / f"{name}-{scheme}-{size['width']}.png"
            page.screenshot(path=path, full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(DESK)


def fill(page, **fields):
    for name, value in fields.items():
        page.fill(f"[name={name}]", value)


def log_in(page, name):
    page.goto("/account/login/")
    fill(page, login=name, password=PASSWORD)
    page.get_by_role("button", name="Log in").click()


def join(page, link, name):
    page.goto(link)
    fill(page, username=name, password1=PASSWORD, password2=PASSWORD)
    page.get_by_role("button", name="Create the account").click()


def train(page, **changes):
    page.goto("/runs/new/")
    for name, value in changes.items():
        field = page.locator(f"[name='{name.replace('__', '.')}']")
        field.select_option(value) if field.evaluate("e => e.tagName") == "SELECT" else field.fill(value)
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("h1")).to_be_visible()
    return page.url.rstrip("/").rsplit("/", 1)[1]


def finished(page):
    """The page of a run follows it by itself."""
    expect(page.locator(".head .pill")).to_have_text("finished", timeout=240_000)


def test_the_story_of_a_lab(chromium, server, tmp_path):
    root = new_page(chromium, server)
    root.goto(server.invitation)
    look(root, "join")
    join(root, server.invitation, "root")
    look(root, "login")

    # The first administrator has to set up a second factor.
    log_in(root, "root")
    expect(root).to_have_url(re.compile("reauthenticate"))
    look(root, "reauthenticate")
    fill(root, password=PASSWORD)
    root.get_by_role("button", name="Confirm").click()
    secret = root.input_value("#authenticator_secret")
    look(root, "second-factor")
    fill(root, code=totp(secret))
    root.get_by_role("button", name="Activate").click()
    recovery = root.locator("textarea").input_value().split()
    look(root, "recovery-codes")
    root.goto("/runs/")
    expect(root.get_by_text("Train your first network")).to_be_visible()
    look(root, "runs-empty")

    # Without a code nobody gets in. That of the app was used, so it is one of those for a lost phone.
    root.get_by_role("button", name="Log out").click()
    log_in(root, "root")
    look(root, "second-factor-asked")
    fill(root, code="000000")
    root.get_by_role("button", name="Sign In").click()
    expect(root.get_by_text("Incorrect code")).to_be_visible()
    fill(root, code=recovery[0])
    root.get_by_role("button", name="Sign In").click()
    expect(root).to_have_url(re.compile("/runs/$"))

    # An invitation.
    root.goto("/users/")
    root.get_by_role("button", name="Invite a user").click()
    link = root.locator("#link").inner_text()
    look(root, "users")
    ada = new_page(chromium, server)
    join(ada, link, "ada")
    log_in(ada, "ada")
    expect(ada.get_by_role("link", name="Users")).to_have_count(0)

    # A training; its curve moves; it survives a reload.
    look_empty(ada)
    train(ada, name="batch norm", epochs="400", batch_size="32")
    expect(ada.locator("#loss canvas")).to_be_visible(timeout=90_000)
    first = ada.locator("#fact-step").inner_text()
    expect(ada.locator("#fact-step")).not_to_have_text(first, timeout=30_000)
    expect(ada.locator("#fact-speed")).not_to_have_text("–")
    expect(ada.locator("#fact-left")).not_to_have_text("–")
    look(ada, "run-live")
    ada.reload()
    expect(ada.locator("#loss canvas")).to_be_visible(timeout=30_000)
    again = ada.locator("#fact-step").inner_text()
    expect(ada.locator("#fact-step")).not_to_have_text(again, timeout=30_000)

    # Stop and resume.
    ada.get_by_role("button", name="Stop", exact=True).click()
    expect(ada.locator(".head .pill")).to_have_text("stopped", timeout=90_000)
    step = int(ada.locator("#fact-step").inner_text().split("/")[0].replace(",", ""))
    look(ada, "run-stopped")
    ada.get_by_role("button", name="Resume").click()
    expect(ada.locator(".head .pill")).to_have_text("running", timeout=90_000)
    expect(ada.locator("#fact-step")).to_have_text(re.compile(r"/"), timeout=90_000)
    assert step > 0
    ada.get_by_role("button", name="Stop", exact=True).click()
    expect(ada.locator(".head .pill")).to_have_text("stopped", timeout=90_000)
    assert int(ada.locator("#fact-step").inner_text().split("/")[0].replace(",", "")) >= step

    # Two short ones to the end, compared.
    one = train(ada, name="with batch norm", epochs="8")
    finished(ada)
    look(ada, "run-finished")
    two = train(ada, name="with layer norm", epochs="8", norm__name="layer_norm")
    finished(ada)
    ada.goto("/runs/")
    look(ada, "runs")
    for name in ("with batch norm", "with layer norm"):
        ada.get_by_label(f"Compare {name}").check()
    ada.get_by_role("button", name="Compare the chosen").click()
    expect(ada.locator("#accuracy canvas")).to_be_visible()
    expect(ada.locator("tbody tr")).to_have_count(2)
    look(ada, "compare")

    # What the network does.
    for tab, name in (
        ("Confusion", "confusion"),
        ("Activations", "activations"),
        ("Prune and fold", "smaller"),
        ("Log", "log"),
    ):
        ada.goto(f"/runs/{one}/")
        ada.get_by_role("link", name=tab, exact=True).click()
        look(ada, name)
    ada.goto(f"/runs/{one}/confusion/")
    ada.locator("td.right a").first.click()
    expect(ada.locator(".thumbs img").first).to_be_visible()
    look(ada, "confusion-cell")

    # Wrong settings stand beside their field.
    ada.goto("/runs/new/")
    ada.fill("[name='optimizer.learning_rate']", "-1")
    ada.get_by_role("button", name="Start training").click()
    expect(ada.locator(".field.bad .wrong")).to_have_text("Use more than 0.")
    look(ada, "new-wrong")

    # A digit that was never in the training is named rightly; a file that is no picture is refused.
    digit = tmp_path / "seven.png"
    digit.write_bytes(digit_png(7))
    ada.goto(f"/recognise/?run={one}&run={two}")
    ada.set_input_files("#pictures", digit)
    expect(ada.locator("#previews img")).to_have_count(1)
    ada.get_by_role("button", name="Recognise", exact=True).click()
    expect(ada.locator(".bars li:first-child .name")).to_have_text(["7", "7"])
    look(ada, "recognise")
    with ada.expect_download() as download:
        ada.get_by_role("link", name="All answers as CSV").click()
    assert "seven.png,with" in Path(download.value.path()).read_text()
    ada.get_by_role("link", name="What did it look at?").first.click()
    look(ada, "saliency")
    wrong = tmp_path / "notes.png"
    wrong.write_bytes(b"no picture")
    ada.goto(f"/recognise/?run={one}")
    ada.set_input_files("#pictures", wrong)
    ada.get_by_role("button", name="Recognise", exact=True).click()
    expect(ada.locator(".messages .error")).to_contain_text("notes.png: The file is no picture")

    # Dropped and pasted pictures come to the same place.
    for event in ("drop", "paste"):
        ada.goto(f"/recognise/?run={one}")
        hand_over(ada, event, digit.read_bytes())
        expect(ada.locator("#previews img")).to_have_count(1)

    # The camera: a picture is taken and named; whoever takes none leaves nothing behind.
    ada.goto(f"/recognise/?run={one}")
    ada.get_by_role("button", name="Camera").click()
    expect(ada.get_by_text("There is no camera, or it may not be used.")).to_be_visible()
    ada.context.grant_permissions(["camera"])
    for button, taken in (("Cancel", 0), ("Take the picture", 1)):
        ada.get_by_role("button", name="Camera").click()
        expect(ada.get_by_role("button", name="Take the picture")).to_be_enabled()
        look(ada, "camera")
        ada.get_by_role("button", name=button).click()
        expect(ada.locator("#camera")).to_be_hidden()
        expect(ada.locator("#previews img")).to_have_count(taken)
        assert ada.evaluate("document.querySelector('#camera video').srcObject") is None
    ada.get_by_role("button", name="Recognise", exact=True).click()
    expect(ada.locator(".answers img.picture")).to_have_attribute("alt", "camera.png")
    expect(ada.locator(".bars li")).not_to_have_count(0)

    # Folded from the page.
    ada.goto(f"/runs/{one}/smaller/")
    ada.get_by_role("button", name="Fold", exact=True).click()
    expect(ada.get_by_text("Size and speed")).to_be_visible(timeout=120_000)
    look(ada, "folded")

    # Pruned from the page: a run of its own, as good as was asked for and smaller.
    ada.goto(f"/runs/{one}/smaller/")
    fill(ada, max_drop="0.5", epochs="0.5", final_epochs="0.5")
    ada.get_by_role("button", name="Prune", exact=True).click()
    finished(ada)
    before, after = ada.get_by_role("row", name="Parameters").locator("td").all_inner_texts()
    assert int(after.replace(",", "")) < int(before.replace(",", ""))
    look(ada, "pruned")

    # A data set of her own, sent as a folder.
    folder = tmp_path / "digits"
    digits = load_digits()
    for i in range(20):
        path = folder / f"class {digits.target[i] % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.round(digits.images[i] * (255 / 16)).astype(np.uint8)))
    (folder / "class 0" / "notes.txt").write_text("no picture")
    ada.goto("/data-sets/")
    look(ada, "data-sets")
    fill(ada, name="odd and even")
    ada.get_by_role("button", name="Create").click()
    look(ada, "data-set-empty")
    ada.set_input_files("#folder", folder)
    ada.get_by_role("button", name="Send").click()
    expect(ada.get_by_text("class 0")).to_be_visible(timeout=30_000)
    expect(ada.locator(".head p")).to_contain_text("20 pictures")
    look(ada, "data-set")

    ada.goto("/account/")
    look(ada, "account")
    ada.goto("/nothing/")
    look(ada, "not-found")
    ada.goto("/account/password/")
    look(ada, "password")

    # Chinese, to the last word of the frame.
    ada.goto("/runs/")
    ada.get_by_role("button", name="中文").click()
    expect(ada.locator("h1")).to_have_text("训练列表")
    assert ada.locator("html").get_attribute("lang") == "zh-hans"
    look(ada, "runs-chinese")
    ada.get_by_role("button", name="English").click()

    # The theme is kept.
    ada.locator("#theme").click()
    assert ada.locator("html").get_attribute("data-theme") == "dark"
    ada.reload()
    assert ada.locator("html").get_attribute("data-theme") == "dark"

    ada.get_by_role("button", name="Log out").click()
    ada.goto("/runs/")
    expect(ada).to_have_url(re.compile("/account/login/"))
    allowed = ("404 (Not Found)", "422 (Unprocessable")
    for page in (root, ada):
        assert [said for said in page.complaints if not any(word in said for word in allowed)] == []


def look_empty(page):
    for path, name in (("/recognise/", "recognise-empty"), ("/compare/", "compare-empty"), ("/runs/new/", "new")):
        page.goto(path)
        look(page, name)


def hand_over(page, event, data):
    """A picture as it comes from another program."""
    page.evaluate(
        """([event, bytes]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "digit.png", {type: "image/png"}));
          const target = event === "drop" ? document.getElementById("drop") : document;
          const options = {bubbles: true, cancelable: true};
          target.dispatchEvent(event === "drop"
            ? new DragEvent("drop", {...options, dataTransfer: transfer})
            : new ClipboardEvent("paste", {...options, clipboardData: transfer}));
        }""",
        [event, list(data)],
    )


def test_the_keyboard_alone_starts_a_training(chromium, server):
    page = new_page(chromium, server)
    page.goto("/account/login/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("[name=login]")
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/runs/$"))
    page.get_by_role("link", name="New training").first.focus()
    page.keyboard.press("Enter")
    page.focus("[name=name]")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("by keyboard")
    page.get_by_role("button", name="Stop", exact=True).focus()
    page.keyboard.press("Space")
    expect(page.locator(".head .pill")).to_have_text(re.compile("stop"), timeout=60_000)


def test_nothing_jumps_while_a_page_loads(chromium, server):
    page = new_page(chromium, server)
    log_in(page, "ada")
    page.add_init_script(
        """window.jumps = 0;
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.jumps += entry.value;
        }).observe({type: "layout-shift", buffered: true});"""
    )
    page.goto("/runs/")
    first = page.locator("tbody a").first.get_attribute("href")
    for path in ("/runs/", "/runs/new/", first, "/recognise/", "/account/"):
        page.goto(path)
        page.wait_for_load_state("load")
        assert page.evaluate("window.jumps") < 0.02, path
