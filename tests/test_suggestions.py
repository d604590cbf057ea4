"""What an error message about an unknown name suggests."""

from __future__ import annotations

from ovis.suggestions import did_you_mean


def test_each_valid_name_is_listed_once():
    assert did_you_mean("ab", ["abc", "xyz", "abc"]) == "; did you mean 'abc'? Valid: abc, xyz"
    assert did_you_mean("q", ["abc"]) == "; Valid: abc"


def test_a_long_list_is_left_out_where_one_name_is_clearly_meant():
    many = ["--nlayers", "--lr", *(f"--option{n}" for n in range(60))]
    assert did_you_mean("--LR", many) == "; did you mean '--lr'?"
    assert did_you_mean("--nlayer", many) == "; did you mean '--nlayers'?"
    assert did_you_mean("--workers", many) == f"; did you mean '--nlayers'? Valid: {', '.join(many)}"
    assert did_you_mean("q", many) == f"; Valid: {', '.join(many)}"
