from zoo.utils.lines import read_lines, split_lines


def test_lines_end_at_lf_and_crlf_alone(tmp_path):
    text = "a\r\n\n\x0b\x0c\x1c\x85\u2028b\rc\nlast"
    assert split_lines(text) == ["a", "", "\x0b\x0c\x1c\x85\u2028b\rc", "last"]
    assert split_lines("") == [] and split_lines("\n") == [""] and split_lines("a\n") == ["a"]
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\n")
    assert read_lines(tmp_path / "file") == split_lines(text)
