import base64
import re
from html.parser import HTMLParser

from ctmr.reporting.audit_report import MAX_FINDINGS, MAX_PICTURES, MAX_PICTURES_OF_MANY, audit_page
from ctmr.results import AuditReport, Finding
from support.pictures import picture

EVIL = "trainB/<img src=x onerror=alert(1)>\n&\"'.png"


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(source)
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def finding(kind, *files, level="error", why="because"):
    return Finding(kind, level, files, why)


def page(*findings, pictures=(), name="DATA"):
    levels = [each.level for each in findings]
    report = AuditReport(
        errors=levels.count("error"),
        warnings=levels.count("warning"),
        notes=levels.count("note"),
        scans={"trainA": 3, "trainB": 2},
        findings=list(findings),
    )
    return audit_page(name, report, {each.label: each.thumbnail for each in pictures})


def test_page_says_what_it_is_for_and_what_was_found():
    found = Page(
        page(
            finding("wrong_modality", "trainB/a.png"),
            finding("blank", "trainA/b.png", level="warning"),
        )
    )
    assert "Research use only" in found.words
    assert "1 errors 1 warnings 0 notes 3 scans in trainA 2 scans in trainB" in found.words
    assert "Of the other modality" in found.words
    assert "trainB/a.png" in found.words
    assert [each["id"] for each in found.all("h2")] == ["wrong_modality", "blank"]
    assert [each["href"] for each in found.all("a")] == ["#wrong_modality", "#blank"]


def test_page_without_findings_says_so():
    assert "Nothing was found." in Page(page()).words


def test_pictures_are_in_the_page():
    shown = picture("trainB/a.png", thumbnail=b"a jpeg")
    (image,) = Page(page(finding("blank", "trainB/a.png", "trainB"), pictures=[shown])).all("img")
    assert image["src"] == "data:image/jpeg;base64," + base64.b64encode(b"a jpeg").decode()


def test_nothing_leaves_the_page_and_no_name_is_markup():
    source = page(finding("odd<kind>", EVIL, why="<b>why</b>"), name="<script>DATA")
    found = Page(source)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "b>", "link", "iframe"})
    assert found.all("img") == []
    assert "<img src=x onerror=alert(1)>\\n&" in found.words
    assert "<script>DATA" in found.words
    assert not re.search(r"https?:|url\(|@import", source)
    (policy,) = [
        each["content"]
        for each in found.all("meta")
        if "content" in each and "default" in each["content"]
    ]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_script_in_any_text_of_an_audit_comes_out_escaped():
    kind, why, file, name, folder = (f"<script>alert({n})</script>" for n in range(5))
    found = finding(kind, file, why=why)
    report = AuditReport(errors=1, warnings=0, notes=0, scans={folder: 3}, findings=[found])
    source = audit_page(name, report, {file: b"a jpeg"})
    found = Page(source)
    assert "<script" not in source
    assert len(found.all("img")) == 1
    assert all(text in found.words for text in (kind, why, file, name, folder))
    assert found.all("h2") == [{"id": kind}]


def test_many_findings_and_files_are_cut_with_a_word():
    many = [finding("blank", f"trainB/{n}.png") for n in range(MAX_FINDINGS + 5)]
    found = Page(page(*many))
    assert len(found.all("figure")) == MAX_FINDINGS
    assert "5 more of this kind are in the JSON file." in found.words
    files = [f"trainB/{n}.png" for n in range(200)]
    found = Page(page(finding("saturated", *files)))
    assert len(found.all("figure")) == MAX_PICTURES
    assert f"because; {200 - MAX_PICTURES} more" in found.words
    found = Page(page(*[finding("near_duplicate", *files) for _ in range(MAX_FINDINGS)]))
    assert len(found.all("figure")) == MAX_PICTURES_OF_MANY * MAX_FINDINGS
