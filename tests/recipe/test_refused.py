"""The tables of what a recipe may not set."""

from __future__ import annotations

from pathlib import Path

from quantpipe.recipe import refused
from quantpipe.recipe.serve import Serve
from quantpipe.smoke.server_command import profile_arguments, smoke_command


def test_every_row_has_names_and_a_reason() -> None:
    for rows in refused.TABLES.values():
        for row in rows:
            assert row.names and row.reason
            assert row.message("X").startswith(f"X is refused: {row.reason}")


def test_no_name_is_in_two_rows() -> None:
    for rows in (refused.VARIABLES, refused.OPTIONS, refused.KEYS):
        names = [name for row in rows for name in row.names]
        assert len(names) == len(set(names))


def test_every_option_that_quantpipe_sets_is_refused_in_extra_args() -> None:
    """Given twice, the last one counts for vLLM: the recipe's would override quantpipe's."""
    serve = Serve(
        enable_expert_parallel=True,
        max_model_len=1,
        max_num_seqs=1,
        max_num_batched_tokens=1,
        gpu_memory_utilization=0.5,
        dtype="auto",
        seed=1,
        enforce_eager=True,
        async_scheduling=True,
        trust_remote_code=True,
        hf_overrides={"a": 1},
        compilation_config={"a": 1},
        additional_config={"a": 1},
    )
    command = smoke_command("native", Path("/p"), Path("/x"), serve, 1)
    given = {argument for argument in command.arguments if argument.startswith("--")}
    assert given >= {argument for argument in profile_arguments(serve) if argument.startswith("--")}
    assert given - {name for row in refused.OPTIONS for name in row.names} == set()
