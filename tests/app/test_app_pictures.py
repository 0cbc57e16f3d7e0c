"""Pictures that come from outside: checks 14 to 19 of docs/app.md, numbered as in ASVS 5.0."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from app_cases import digit_png, files_below, png, sent
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse
from PIL import Image

from normjax.app import data_sets, pictures
from normjax.app.models import DataSet, Picture
from normjax.app.pictures import clean_picture, keep_picture
from normjax.errors import UserError

pytest_plugins = ["app_fixtures"]
pytestmark = pytest.mark.django_db

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def upload(data: bytes, name: str = "picture.png") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, data)


def cleaned(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(clean_picture(upload(data)))) as image:
        return np.asarray(image)


def header_of(width: int, height: int) -> bytes:
    """A PNG that declares a size and has hardly any data: what a bomb looks like from outside."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_pixels_survive(form):
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(cleaned(png(COLOURS, form, **options)), COLOURS)


def test_grey_stays_grey_and_sixteen_bits_are_scaled():
    grey = COLOURS[..., 0]
    np.testing.assert_array_equal(cleaned(png(grey)), grey)
    np.testing.assert_array_equal(cleaned(png(grey.astype(np.uint16) * 257)), grey)
    levels = np.arange(0, 65536, 16, np.uint16).reshape(64, 64)
    np.testing.assert_array_equal(cleaned(png(levels)), np.round(levels / 257).astype(np.uint8))


def test_5_2_1_a_large_file_is_refused(settings):
    settings.MAX_UPLOAD_BYTES = 1000
    with pytest.raises(UserError, match="larger than 0 MiB"):
        clean_picture(upload(b"x" * 1001))


@pytest.mark.parametrize(("width", "height"), [(5001, 5000), (25_000, 1001), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_5_2_6_a_flood_of_pixels_is_refused_by_the_header(width, height, monkeypatch):
    # Nothing is decoded: the loader is not reached.
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=r"at most 25 million|no picture that can be read"):
        clean_picture(upload(header_of(width, height)))


def test_5_2_6_a_real_bomb_takes_no_memory():
    bomb = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(bomb, "PNG")  # 192 MB of pixels in 200 kB
    with pytest.raises(UserError, match="8000 × 8000"):
        clean_picture(upload(bomb.getvalue()))


def test_a_moving_picture_and_a_strip_are_refused():
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    for form in ("PNG", "WEBP"):
        out = io.BytesIO()
        frames[0].save(out, form, save_all=True, append_images=frames[1:])
        with pytest.raises(UserError, match="moves"):
            clean_picture(upload(out.getvalue()))
    with pytest.raises(UserError, match="strip"):
        clean_picture(upload(png(np.zeros((2, 300), np.uint8))))
    with pytest.raises(UserError, match="strip"):
        clean_picture(upload(png(np.zeros((1, 1), np.uint8))))


@pytest.mark.parametrize("form", ["GIF", "TIFF", "BMP", "PDF", "EPS", "ICO", "PPM", "JPEG2000"])
def test_5_2_2_other_formats_are_not_even_tried(form):
    with pytest.raises(UserError, match="send JPEG, PNG or WebP"):
        clean_picture(upload(png(COLOURS, form)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"\x89PNG\r\n\x1a\n",
        b"\x80\x04\x95" + b"cos\nsystem\n",  # a pickle
        b"PK\x03\x04" + b"\0" * 100,
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
)
def test_5_2_2_what_is_no_picture_is_refused(data):
    with pytest.raises(UserError, match="no picture that can be read"):
        clean_picture(upload(data))


def test_a_picture_cut_short_or_damaged_is_refused():
    whole = png(COLOURS)
    with pytest.raises(UserError, match="no picture that can be read"):
        clean_picture(upload(whole[: len(whole) // 2]))
    spoilt = bytearray(whole)
    spoilt[len(spoilt) // 2] ^= 0xFF
    with pytest.raises(UserError, match="no picture that can be read"):
        clean_picture(upload(bytes(spoilt)))


def test_5_2_2_of_a_polyglot_only_the_pixels_are_left():
    payload = b"<script>alert(1)</script>PK\x03\x04<?php system($_GET[0]); ?>"
    info = Image.Exif()
    info[0x010E] = payload.decode("latin1")
    polyglot = png(COLOURS, "JPEG", exif=info, comment=payload, quality=95) + payload
    assert payload in polyglot
    kept = clean_picture(upload(polyglot))
    assert b"script" not in kept
    assert b"PK\x03\x04" not in kept
    assert kept.startswith(b"\x89PNG")


def test_14_2_8_the_turn_of_the_camera_is_applied_and_the_rest_is_dropped():
    info = Image.Exif()
    info[0x0112] = 6  # to be turned by 90 degrees
    info[0x010F] = "camera"
    info.get_ifd(0x8825)[1] = "N"  # where it was taken
    kept = clean_picture(upload(png(COLOURS, "PNG", exif=info)))
    with Image.open(io.BytesIO(kept)) as image:
        np.testing.assert_array_equal(np.asarray(image), np.rot90(COLOURS, -1))
        assert not image.getexif()
        assert not image.info
    assert b"camera" not in kept


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("a\x00b.png", "ab.png"),
        ("%2e%2e%2fsecret", "%2e%2e%2fsecret"),  # a name like any other
        ("猫.png", "猫.png"),
        ("a\r\nSet-Cookie: x.png", "aSet-Cookie: x.png"),
        ("x" * 300 + ".png", "x" * 96 + ".png"),
        ("", "picture"),
    ],
)
def test_5_3_2_a_name_names_no_file(ada, name, shown, settings):
    file = upload(digit_png())
    file._name = name
    kept = keep_picture(ada, file)
    assert kept.name == shown
    assert kept.file.parent == settings.HOME.pictures
    assert kept.file.stem == kept.pk


def test_5_4_1_pictures_are_sent_back_as_pictures(ada, as_user, picture):
    response = as_user(ada).get(reverse("picture", args=[picture.pk]))
    assert response["Content-Type"] == "image/png"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert b"".join(response.streaming_content) == picture.file.read_bytes()


def test_a_wrong_file_is_named_and_the_right_ones_are_kept(ada, as_user, settings):
    client = as_user(ada)
    files = [sent("digit.png", digit_png()), sent("notes.txt", b"no picture"), sent("x.svg", b"<svg/>")]
    before = files_below(settings.HOME.pictures)
    page = client.post(reverse("recognise"), {"pictures": files}, follow=True)
    told = [str(message) for message in page.context["messages"]]
    assert any(text.startswith("notes.txt: The file is no picture") for text in told)
    assert any(text.startswith("x.svg: ") for text in told)
    assert [kept.name for kept in Picture.objects.all()] == ["digit.png"]
    assert len(files_below(settings.HOME.pictures) - before) == 1


def test_a_user_keeps_no_more_pictures_than_allowed(ada, picture, settings):
    settings.MAX_PICTURES_KEPT = 1
    before = files_below(settings.HOME.pictures)
    with pytest.raises(UserError, match="You have 1 pictures here"):
        keep_picture(ada, upload(digit_png()))
    assert files_below(settings.HOME.pictures) == before
    assert picture.file.exists()


@pytest.mark.parametrize(
    "label",
    [
        "",
        " ",
        ".",
        "..",
        "../up",
        "a/b",
        "a\\b",
        ".hidden",
        "a\x00b",
        "a\nb",
        "train",
        "TEST",
        "x" * 61,
        "a.b",
        "con:",
        "~",
    ],
)
def test_5_3_2_a_class_is_a_plain_name(data_set, label):
    before = files_below(data_set.path)
    with pytest.raises(UserError, match="is no name of a class"):
        data_sets.add_picture(data_set, label, upload(digit_png()))
    assert files_below(data_set.path) == before
    data_set.refresh_from_db()
    assert data_set.pictures == 4


def test_classes_have_names_of_any_script(data_set):
    data_sets.add_picture(data_set, "猫 (short-haired)", upload(digit_png()))
    assert data_sets.classes(data_set) == [("dark", 2), ("light", 2), ("猫 (short-haired)", 1)]


def test_5_2_4_a_data_set_has_bounds(ada, data_set, settings):
    settings.MAX_DATA_SET_PICTURES = 4
    with pytest.raises(UserError, match="The data set is full"):
        data_sets.add_picture(data_set, "dark", upload(digit_png()))
    settings.MAX_DATA_SET_PICTURES = 5
    settings.MAX_DATA_SET_BYTES = data_set.bytes + 10
    with pytest.raises(UserError, match="The data set is full"):
        data_sets.add_picture(data_set, "dark", upload(digit_png()))
    data_set.refresh_from_db()
    assert data_set.pictures == len(files_below(data_set.path)) == 4
    settings.MAX_DATA_SETS = 1
    with pytest.raises(UserError, match="You have 1 data sets"):
        data_sets.create(ada, "another")


def test_a_data_set_has_so_many_classes_and_no_more(data_set, settings):
    settings.MAX_CLASSES = 2
    with pytest.raises(UserError, match="2 classes at most"):
        data_sets.add_picture(data_set, "third", upload(png(COLOURS)))
    data_sets.add_picture(data_set, "dark", upload(png(COLOURS)))
    data_set.refresh_from_db()
    assert data_set.pictures == 5


def test_kept_pictures_have_room_for_so_many_bytes(ada, picture, settings):
    settings.MAX_PICTURES_BYTES = picture.bytes
    with pytest.raises(UserError, match="remove some first"):
        keep_picture(ada, upload(png(COLOURS)))


def test_few_pictures_are_decoded_at_a_time(monkeypatch):
    # Many large ones at once were more memory than the machine has.
    running, most, lock = 0, 0, threading.Lock()
    pixels = pictures._pixels

    def counted(image):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.02)
        with lock:
            running -= 1
        return pixels(image)

    monkeypatch.setattr(pictures, "_pixels", counted)
    threads = [threading.Thread(target=clean_picture, args=(upload(png(COLOURS)),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


def test_a_picture_whose_file_is_gone_is_not_found(ada, as_user, picture):
    picture.file.unlink()
    assert as_user(ada).get(reverse("picture", args=[picture.pk])).status_code == 404


def test_a_picture_that_cannot_be_written_is_not_counted(data_set, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(UserError, match="cannot be kept: No space left"):
        data_sets.add_picture(data_set, "dark", upload(digit_png()))
    data_set.refresh_from_db()
    assert data_set.pictures == len(files_below(data_set.path)) == 4


def test_a_data_set_goes_with_its_files_and_not_under_a_run(ada, data_set, make_run, as_user):
    client = as_user(ada)
    run = make_run(ada, data_set=data_set, status="running")
    client.post(reverse("data_set_delete", args=[data_set.pk]))
    with pytest.raises(UserError, match="is using this data set"):
        data_sets.add_picture(data_set, "dark", upload(digit_png()))
    assert DataSet.objects.exists()
    type(run).objects.update(status="finished")
    client.post(reverse("data_set_delete", args=[data_set.pk]))
    assert not DataSet.objects.exists()
    assert not data_set.path.exists()


def test_5_2_3_archives_are_not_taken(ada, data_set, as_user):
    archive = b"PK\x03\x04" + b"\0" * 200
    answer = as_user(ada).post(
        reverse("data_set_pictures", args=[data_set.pk]), {"label": "dark", "picture": sent("all.zip", archive)}
    )
    assert answer.status_code == 422
    assert answer.json()["field"] == "picture"
