"""Already sectioned collections become plain texts whose sections stage 05 finds again."""

import tarfile

import polars as pl
import pytest

from glint.cli.__main__ import main
from glint.core.errors import InputError
from glint.formats.sectioned_reports import sectioned_report_table
from glint.prepare.sections.headers import find_sections

XML = """<eCitation><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="FINDINGS">Clear lungs.</AbstractText>
<AbstractText Label="IMPRESSION">Normal chest.</AbstractText></Abstract></Article></MedlineCitation></eCitation>"""


def sections(text: str) -> dict[str, str]:
    return {s.section: text[s.start : s.end] for s in find_sections(text)}


def test_ct_rate_columns_come_back_as_sections_and_reconstructions_count_once(tmp_path):
    path = tmp_path / "reports.csv"
    names = ["valid_1_a_1.nii.gz", "valid_1_a_2.nii.gz", "valid_2_a_1.nii.gz"]
    columns = {"ClinicalInformation_EN": "Cough.", "Technique_EN": "Not given.", "Findings_EN": "A nodule."}
    pl.DataFrame({"VolumeName": names, **columns, "Impressions_EN": "Nodule."}).write_csv(path)
    table = sectioned_report_table(path, "ct_rate")
    assert table["id"].to_list() == ["valid_1_a", "valid_2_a"]
    assert sections(table["text"][0]) == {
        "clinical_information": "Cough.",
        "findings": "A nodule.",
        "impression": "Nodule.",
    }


def test_iu_xml_is_read_from_a_folder_and_from_an_archive(tmp_path):
    folder = tmp_path / "xml"
    folder.mkdir()
    (folder / "7.xml").write_text(XML)
    with tarfile.open(tmp_path / "all.tgz", "w:gz") as archive:
        archive.add(folder / "7.xml", "ecgen/7.xml")
    from_folder = sectioned_report_table(folder, "iu_xml")
    assert from_folder.equals(sectioned_report_table(tmp_path / "all.tgz", "iu_xml"))
    assert from_folder["id"].to_list() == ["CXR7"]
    assert sections(from_folder["text"][0]) == {
        "comparison": "None.",
        "findings": "Clear lungs.",
        "impression": "Normal chest.",
    }


def test_the_last_paragraph_of_mimic_is_never_called_findings(tmp_path):
    path = tmp_path / "mimic_cxr_sectioned.csv"
    columns = {"impression": ["", "Normal."], "findings": ["", "Clear."], "comparison": ["", ""]}
    pl.DataFrame({"study": ["s1", "s2"], **columns, "last_paragraph": ["Lungs are clear.", ""]}).write_csv(path)
    texts = sectioned_report_table(path, "mimic_sections")["text"]
    assert sections(texts[0]) == {"unsectioned": "Lungs are clear."}
    assert sections(texts[1]) == {"findings": "Clear.", "impression": "Normal."}


def test_the_command_writes_a_table_that_holds_the_texts_as_they_are(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "s5.txt").write_text(" FINAL REPORT\n FINDINGS: Clear.\n")
    out = tmp_path / "table.csv"
    arguments = ["report-table", "--layout", "mimic_text", "--source", str(tmp_path / "files"), "--out", str(out)]
    assert main(arguments) == 0
    assert pl.read_csv(out).rows() == [("s5", " FINAL REPORT\n FINDINGS: Clear.\n")]


@pytest.mark.parametrize("layout", ["ct_rate", "iu_xml", "mimic_sections", "mimic_text"])
def test_a_wrong_source_ends_in_one_line(tmp_path, layout):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        sectioned_report_table(tmp_path / "empty", layout)
    with pytest.raises(InputError, match="no such"):
        sectioned_report_table(tmp_path / "absent", layout)


def test_real_collections_are_read(real_data):
    folder = real_data / "5_report_text"
    assert sectioned_report_table(folder / "iu_xray" / "ecgen-radiology.tgz", "iu_xml").height > 3000
    assert sectioned_report_table(folder / "ct_rate_sections" / "validation_reports.csv", "ct_rate").height > 900
