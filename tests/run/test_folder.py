from fl_audit.run.folder import CONTROL, slugs


def test_slugs_are_safe_and_different() -> None:
    specs = ["dp", "prune:0.9", "prune=0.9", "prune-0.9", "../../etc", "a/b:c", CONTROL, "x" * 300, "x" * 301]
    named = slugs(specs)
    assert named["dp"] == "dp"
    assert named["prune:0.9"] == "prune-0.9"
    assert len(set(named.values())) == len(specs)
    assert CONTROL not in named.values()
    for slug in named.values():
        assert slug
        assert "/" not in slug
        assert not slug.startswith(".")
        assert len(slug) < 80
