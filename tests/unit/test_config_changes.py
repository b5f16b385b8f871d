from genesis_ds.config.changes import changed


def test_changed_fields_are_named_with_both_values_and_where_a_run_is_kept_is_none_of_them():
    before = {"name": "a", "resume": "auto", "optimizer": {"lr": 0.1, "betas": [0.9, 0.95]}, "max_steps": 4}
    now = {"name": "b", "resume": "never", "optimizer": {"lr": 0.2, "betas": [0.9, 0.95]}, "max_steps": 4, "new": 1}
    assert changed(before, now) == ["optimizer.lr 0.1, now 0.2"]
    assert changed(now, now) == []


def test_of_many_changes_the_first_are_named_and_the_others_counted():
    before, now = {f"f{n}": 0 for n in range(11)}, {f"f{n}": 1 for n in range(11)}
    assert changed(before, now)[7:] == ["f7 0, now 1", "3 more"]


def test_a_key_of_the_users_own_that_is_given_or_left_out_is_a_change_and_a_field_the_program_did_not_know_is_none():
    before = {"tasks": {"lm": 28.0, "coherence": 1.0}, "optimizer": {"weight_decay_of": {}, "lr": 0.1}}
    now = {"tasks": {"lm": 28.0}, "optimizer": {"weight_decay_of": {"matrices": 3.0}, "lr": 0.1, "options": {"a": 1}}}
    given = "optimizer.weight_decay_of.matrices not given, now 3.0"
    assert changed(before, now) == [given, "tasks.coherence 1.0, now not given"]
    assert changed(now, before) == [
        "tasks.coherence not given, now 1.0",
        "optimizer.weight_decay_of.matrices 3.0, now not given",
    ]
    assert changed({"tasks": {"lm": 28.0}, "optimizer": {"lr": 0.1}}, now) == []
