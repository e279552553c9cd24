"""The gallery behind the page: pages, choices, comparison, the trash; shared pages."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from magicanimate.errors import InputError
from magicanimate.webui.gallery import result_panel
from magicanimate.webui.gallery.library import PER_PAGE, Gallery, GalleryState, Library
from magicanimate.webui.gallery.result_panel import settings_table
from magicanimate.webui.gallery.tab import Card, grid
from magicanimate.webui.page import Page
from magicanimate.webui.service import AnimationService
from tests.inputs import write_motion, write_photo
from tests.result_files import ground, write_result

VISITOR = SimpleNamespace(session_hash="me", username=None)


def names(page) -> list[str]:
    return [result.name for _, result in page.entries]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three results, one of them with its side by side video."""
    for day, name in enumerate(("anna", "ben", "carl"), start=1):
        path = tmp_path / f"2026010{day}-090000_{name}_waltz.mp4"
        write_result(path, photo=f"{name}.png", seed=day, strip=name == "carl")
    return tmp_path


@pytest.fixture
def gallery(folder) -> Gallery:
    return Gallery(Library(folder))


def test_choose_compare_and_stop(gallery):
    page = gallery.page(GalleryState())
    assert names(page) == [
        f"2026010{day}-090000_{name}_waltz" for day, name in ((3, "carl"), (2, "ben"), (1, "anna"))
    ]
    (carl, _), (ben, _), (anna, _) = page.entries
    at = gallery.choose(page.at, carl)
    assert [result.photo_name for result in gallery.shown(at)] == ["carl.png"]
    at = gallery.choose(gallery.compare(at), ben)
    assert [result.photo_name for result in gallery.shown(at)] == ["carl.png", "ben.png"]
    at = gallery.choose(at, anna)
    assert [result.photo_name for result in gallery.shown(at)] == ["carl.png", "anna.png"]
    at = gallery.compare(at)
    assert not at.comparing and [result.photo_name for result in gallery.shown(at)] == ["carl.png"]
    assert gallery.shown(gallery.choose(at, ben)) == (page.entries[1][1],)


def test_delete_undo_restore_empty(gallery, folder):
    page = gallery.page(GalleryState(search="waltz"))
    at = gallery.delete(gallery.choose(page.at, page.entries[0][0]))
    assert at.chosen == "" and len(gallery.page(at).entries) == 2 and gallery.page(at).trashed == 1
    at = gallery.undo(at)
    assert gallery.shown(at)[0].strip is not None and gallery.page(at).trashed == 0 and at.search == "waltz"

    at = gallery.delete(at)
    at = gallery.find(at, "", in_trash=True)
    ((id, result),) = gallery.page(at).entries
    assert result.photo_name == "carl.png"
    at = gallery.restore(gallery.choose(at, id))
    assert gallery.page(at).nothing == "The trash is empty." and gallery.page(at).entries == ()

    at = gallery.find(at, "", in_trash=False)
    at = gallery.delete(gallery.choose(at, gallery.page(at).entries[0][0]))
    gallery.empty_trash(at)
    assert len(gallery.page(at).entries) == 2 and not list(folder.glob("*carl*"))
    with pytest.raises(InputError, match="not in the trash"):
        gallery.undo(at)


def test_stars_and_several_results_at_once(gallery, folder):
    page = gallery.page(GalleryState())
    carl, ben, anna = (id for id, _ in page.entries)
    at = gallery.star(page.at, ben)
    starred = gallery.find(at, "", starred=True)
    assert [id for id, _ in gallery.page(starred).entries] == [ben]
    assert Library(folder).stars == {result.name for id, result in page.entries if id == ben}  # and tomorrow
    at = gallery.select(gallery.select(gallery.select(at, carl), ben), anna)
    at = gallery.star(gallery.select(at, anna))  # carl too, as not all of them had one
    assert [id for id, _ in gallery.page(starred).entries] == [carl, ben]
    at = gallery.delete(at)
    assert at.selected == () and [id for id, _ in gallery.page(at).entries] == [anna]
    at = gallery.undo(at)
    assert [id for id, _ in gallery.page(at).entries] == [carl, ben, anna]
    gallery.star(replace(at, selected=(carl, ben)))
    assert gallery.page(starred).entries == () and "No stars yet" in gallery.page(starred).nothing
    assert gallery.page(replace(at, selected=("gone.json",))).at.selected == ()
    (folder / ".stars.json").write_text("[broken")
    assert Library(folder).stars == frozenset()


def test_a_result_that_went_away_is_told(gallery, folder):
    page = gallery.page(GalleryState())
    at = gallery.choose(page.at, page.entries[0][0])
    page.entries[0][1].output.unlink()
    for act in (gallery.shown, gallery.delete):
        with pytest.raises(InputError, match="not there any more"):
            act(at)


def test_pages_exist(tmp_path):
    gallery = Gallery(Library(tmp_path))
    assert (
        gallery.page(GalleryState(page=7)).at.page == 0
        and gallery.page(GalleryState()).nothing == "Nothing was made yet."
    )
    first = write_result(tmp_path / "r00.mp4", frames=1)
    for i in range(1, PER_PAGE + 2):
        (tmp_path / f"r{i:02}.mp4").write_bytes(first.output.read_bytes())
        (tmp_path / f"r{i:02}.json").write_text(first.settings_file.read_text())
    page = gallery.page(GalleryState(page=7))
    assert (page.at.page, page.pages, len(page.entries)) == (1, 2, 2)
    assert gallery.page(GalleryState(search="zzz")).nothing == "Nothing matches the search."
    assert gallery.find(page.at, "r0", in_trash=False).page == 0


@pytest.fixture
def make_page(tiny_model, folder):
    studios = []

    def make(*, shared: bool) -> Page:
        studios.append(AnimationService(tiny_model, folder, device="cpu", shared=shared))
        return Page(studios[-1], [], queue_size=2)

    yield make
    for service in studios:
        service.close()


def test_the_page_shows_what_it_may(make_page, folder):
    tab = make_page(shared=False).gallery
    *_, last = tab._list(GalleryState(), "", VISITOR)
    assert last[tab.grid].count("<img") == 3  # with thumbnails, the last of which was just made
    card = f'data-id="{folder.name}'
    assert card not in last[tab.grid] and 'data-id="20260103-090000_carl_waltz.json"' in last[tab.grid]
    event = SimpleNamespace(id="20260103-090000_carl_waltz.json", page=None)
    shown, *_ = tab._choose(GalleryState(), "", VISITOR, event)
    assert "_side_by_side.mp4" in shown[tab.result.viewer]["value"] and shown[tab.delete]["visible"]
    event.id = "../secret.json"
    told, *_ = tab._choose(GalleryState(), "", VISITOR, event)
    assert "not there any more" in told[tab.notice] and told[tab.result.viewer]["value"] == ""


def test_what_was_asked_for_last_is_shown_last(make_page, folder):
    """Thumbnails of an earlier look may come later, the more so on a busy machine."""
    tab = make_page(shared=False).gallery
    slow = tab._list(GalleryState(), "", VISITOR)
    assert next(slow)[tab.grid].count("ma-card-empty") == 3
    assert next(slow)[tab.grid].count("ma-card-empty") == 2
    quick = tab._find(GalleryState(), "", "anna", "Results", VISITOR)
    assert next(quick)[tab.state].search == "anna"
    assert next(slow, None) is None
    other = tab._list(GalleryState(), "", SimpleNamespace(session_hash="other", username=None))
    assert next(other) and next(quick)[tab.grid].count("<img") == 1  # another visitor is not in the way


def test_a_bin_that_is_kept_gets_its_other_thumbnails(make_page, folder):
    page = make_page(shared=False)
    tab, at = page.gallery, GalleryState(in_trash=True)
    gallery = Gallery(Library(folder))
    for id, _ in gallery.page(GalleryState()).entries:
        gallery.delete(gallery.choose(GalleryState(), id))
    slow = tab._list(at, "", VISITOR)
    assert next(slow)[tab.grid].count("ma-card-empty") == 3
    assert tab._ask(VISITOR)[tab.sure]["visible"] and next(slow, None) is None
    (keep,) = (fn for fn in page.blocks.fns.values() if (tab.keep._id, "click") in fn.targets)
    first, *_, last = keep.fn(at, "", VISITOR)
    assert not first[tab.sure]["visible"] and not last[tab.sure]["visible"]
    assert last[tab.grid].count("<img") == 3 and set(keep.outputs) == set(tab.widgets)


def test_what_comes_too_late_shows_nothing_but_what_was_done(make_page, monkeypatch):
    tab = make_page(shared=False).gallery
    read, other = Gallery.page, SimpleNamespace(id="20260102-090000_ben_waltz.json", page=None)
    # The visitor asks for something else while the folder is read.
    monkeypatch.setattr(Gallery, "page", lambda *args: tab._begin(VISITOR) and read(*args))
    at = GalleryState(chosen=other.id)
    assert list(tab._choose(GalleryState(), "", VISITOR, other)) == []
    assert list(tab._find(GalleryState(), "", "", "Trash", VISITOR)) == []
    assert list(tab._stepping(Gallery.compare, "")(at, "", VISITOR)) == []
    for said in ("Moved to the trash.", "not there any more"):
        (updates,) = tab._stepping(Gallery.delete, "Moved to the trash.")(at, "", VISITOR)
        assert updates.keys() == {tab.notice} and said in updates[tab.notice]


def test_every_update_repeats_what_was_told_before(make_page, folder):
    """A browser that is busy may look at the last one only."""
    tab = make_page(shared=False).gallery
    event = SimpleNamespace(id="20260102-090000_ben_waltz.json", page=None)
    first, *later = tab._choose(GalleryState(), "", VISITOR, event)
    assert "ben_waltz.mp4" in first[tab.result.viewer]["value"] and len(later) == 3
    for updates in later:
        assert updates.keys() == first.keys()
        assert updates[tab.result.viewer] == first[tab.result.viewer]


def test_visitors_of_a_shared_page_see_their_own(make_page, folder, monkeypatch):
    tab = make_page(shared=True).gallery
    other = SimpleNamespace(session_hash="other", username=None)
    mine = folder / "20260102-090000_ben_waltz.mp4"
    done = SimpleNamespace(results=(str(mine),))
    monkeypatch.setattr(tab.service.queue, "jobs", lambda owner: [done] if owner == "me" else [])
    *_, seen = tab._list(GalleryState(), "", VISITOR)
    assert "ben_waltz" in seen[tab.grid] and "anna" not in seen[tab.grid]
    assert not tab.folder.visible
    *_, seen = tab._list(GalleryState(), "", other)
    assert "Nothing was made yet" in seen[tab.grid]
    told, *_ = tab._choose(
        GalleryState(), "", other, SimpleNamespace(id="20260102-090000_ben_waltz.json", page=None)
    )
    assert "not there any more" in told[tab.notice]


def test_settings_come_back_into_the_form(make_page, folder, tmp_path):
    page = make_page(shared=False)
    again, controls = page.animate.use_again, page.animate.controls
    photo, motion = write_photo(tmp_path / "zoe.png"), write_motion(tmp_path / "polka.mp4", 3)
    result = write_result(
        folder / "20260104-090000_zoe_polka.mp4", photo=str(photo), motion=str(motion), seed=77, fit="pad"
    )
    updates = again._from_result(page.tabs, str(result.output))
    assert (updates[controls["seed"]], updates[controls["fit"]]) == (77, "pad")
    assert Path(updates[controls["photo"]]).read_bytes() == photo.read_bytes()
    assert Path(updates[controls["motion"]]).name == "polka.mp4"
    assert updates[page.tabs]["selected"] == "animate" and "ma-done" in updates[again.notice]["value"]

    copy = shutil.copy(result.output, tmp_path / "from_the_net (1).mp4")  # knows names of files only
    assert b"zoe.png" in copy.read_bytes() and str(tmp_path).encode() not in copy.read_bytes()
    updates = again._from_file(str(copy), "", VISITOR)
    assert Path(updates[controls["photo"]]).read_bytes() == photo.read_bytes()
    assert updates[controls["seed"]] == 77 and "ma-done" in updates[again.notice]["value"]

    motion.unlink()
    updates = again._from_file(str(result.settings_file), "", VISITOR)
    assert "The dance video polka.mp4 is not there any more" in updates[again.notice]["value"]
    assert controls["photo"] in updates and controls["motion"] not in updates

    (tmp_path / "x.json").write_text(json.dumps({"photo": "", "motion": "", "seed": "many"}))
    updates = again._from_file(str(tmp_path / "x.json"), "", VISITOR)
    assert "Seed (many) was left out. Seed must be a whole number." in updates[again.notice]["value"]
    refused = again._from_file(str(write_photo(tmp_path / "plain.png")), "", VISITOR)
    assert list(refused) == [again.notice] and "plain.png has no settings" in refused[again.notice]["value"]


def test_a_copy_of_a_result_that_is_gone_asks_for_photo_and_clip(make_page, folder, tmp_path, monkeypatch):
    page = make_page(shared=False)
    again, controls = page.animate.use_again, page.animate.controls
    write_photo(tmp_path / "zoe.png")
    monkeypatch.chdir(tmp_path)  # what lies here under that name is another photo
    result = write_result(folder / "20260104-090000_zoe_polka.mp4", photo=str(folder / "zoe.png"), seed=77)
    copy = shutil.copy(result.output, tmp_path / "copy.mp4")
    result.settings_file.unlink()
    updates = again._from_file(str(copy), "", VISITOR)
    assert updates[controls["seed"]] == 77 and controls["photo"] not in updates
    for said in (
        "The photo zoe.png is not there any more",
        "The dance video dance.mp4 is not there any more",
    ):
        assert said in updates[again.notice]["value"]


def test_a_shared_page_takes_files_only_from_ones_own_results(make_page, folder, tmp_path, monkeypatch):
    page = make_page(shared=True)
    again, controls = page.animate.use_again, page.animate.controls
    photo = write_photo(folder / "mine.png")
    mine = write_result(folder / "20260104-090000_me_polka.mp4", photo=str(photo), seed=5)
    others = folder / "20260103-090000_carl_waltz.mp4"  # its name can be guessed
    done = SimpleNamespace(results=(str(mine.output),))
    monkeypatch.setattr(page.animate.service.queue, "jobs", lambda owner: [done] if owner == "me" else [])
    (tmp_path / "home").mkdir()
    elsewhere = write_photo(tmp_path / "home" / "secret.png")
    forged = tmp_path / "forged.json"
    for secret in (elsewhere, others, folder / "20260103-090000_carl_waltz.json", photo):
        forged.write_text(json.dumps({"photo": str(secret), "motion": str(secret), "seed": 1}))
        updates = again._from_file(str(forged), "", VISITOR)
        assert controls["photo"] not in updates and controls["motion"] not in updates
        assert f"The photo {secret.name} is not there any more" in updates[again.notice]["value"]
    updates = again._from_file(str(mine.output), "", VISITOR)
    assert Path(updates[controls["photo"]]).read_bytes() == photo.read_bytes()
    other = SimpleNamespace(session_hash="other", username=None)
    assert controls["photo"] not in again._from_file(str(mine.output), "", other)


def test_names_of_files_cannot_break_out_of_the_html(folder):
    result = write_result(
        folder / "20260105-090000_a_b.mp4", photo='"><script>alert(1)</script>.png', frames=2
    )
    from magicanimate.webui.gallery.tab import Card, grid

    html = grid([Card('"x', result, None)], page=0, pages=1, empty="")
    assert "<script" not in html and 'data-id="&quot;x"' in html
    assert "<script" not in result_panel.player(result)


def test_what_differs_comes_first_in_the_labels_of_a_comparison(tmp_path):
    """They are cut where they end."""
    made = [
        write_result(tmp_path / f"20260101-0900{i}0_me_waltz.mp4", seed=7, num_inference_steps=steps)
        for i, steps in enumerate((4, 20))
    ]
    assert result_panel._labels(made) == ["steps 4 · 09:00", "steps 20 · 09:00"]
    other = write_result(tmp_path / "20260102-090000_me_waltz.mp4", seed=8, num_inference_steps=20)
    assert result_panel._labels([made[1], other]) == ["seed 7 · 01 Jan, 09:00", "seed 8 · 02 Jan, 09:00"]


def test_cards_show_the_seed_and_settings_are_told_in_words(folder):
    result = Library(folder).results()[0]
    assert "<span>seed 3</span>" in grid([Card("a", result, None)], page=0, pages=1, empty="")
    secret = folder / "deep" / "down"
    result = write_result(folder / "x.mp4", photo=str(secret / "me.png"), motion=str(secret / "<b>.mp4"))
    told = settings_table(result)
    assert str(secret) not in told and "me.png" in told and "&lt;b&gt;.mp4" in told
    assert "<td>Best</td>" in told and "num_inference_steps" not in told


def test_a_result_is_sent_to_the_form(make_page, folder):
    page = make_page(shared=False)
    result, sending = Library(folder).results()[0], page.animate.use_again
    sent = sending._send(page.tabs, "photo", str(result.output))
    with Image.open(sent[page.animate.controls["photo"]]) as photo:
        assert photo.size == (32, 32)
        assert abs(photo.convert("RGB").getpixel((2, 30))[0] - ground(7)) < 12  # the last of eight frames
    sent = sending._send(page.tabs, "motion", str(result.output))
    assert Path(sent[page.animate.controls["motion"]]).name == result.output.name
    gone = sending._send(page.tabs, "motion", str(folder / "gone.mp4"))
    assert "gone.mp4" in gone[sending.notice]["value"]
