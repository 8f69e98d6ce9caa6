"""Tasks of lm-evaluation-harness as suites: its prompts and its scoring, our engines and our reports."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from llmops.errors import EnvironmentFault, InputError, nearest
from llmops.eval.harness_report import PREFIX, measured
from llmops.eval.harness_requests import Asked, as_text
from llmops.eval.measured import Measured
from llmops.records import ModelSource


def evaluate_task(task: str, model: ModelSource, asked: Asked, *, limit: int | None = None) -> Measured:
    """A task by its name, or by the YAML file that defines it, measured on `model`.

    Args:
        limit: the first so many documents of each of its tasks; None takes all.

    Raises:
        InputError: there is no such task, or nothing it measures is a mean over its documents.
        EnvironmentFault: lm-evaluation-harness is missing, or the task's data cannot be had.
    """
    named, manager = _task(task)
    asked.listener.say(f"{PREFIX}{named}: lm-evaluation-harness builds the prompts")
    from lm_eval import simple_evaluate

    is_chat = asked.tokenizer is None or bool(asked.tokenizer.chat_template)
    try:
        done = simple_evaluate(
            model=_model(asked, model),
            tasks=[named],
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=is_chat,
            fewshot_as_multiturn=is_chat,
            task_manager=manager,
            # Its own scorers of code run what a model wrote; that needs a sandbox, which it does not have.
            confirm_run_unsafe_code=False,
        )
    except (OSError, ConnectionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EnvironmentFault(
            f"the task {named} cannot be run: {reason}",
            fix="check that its data set is on this machine or can be downloaded (HF_HUB_OFFLINE=0)",
        ) from error
    assert done is not None
    return measured(named, done, model, asked, is_chat=is_chat)


def _task(task: str) -> tuple[str, Any]:
    """The task's name, and what knows the tasks."""
    try:
        # It announces every group of tasks that it loads.
        logging.getLogger("lm_eval").setLevel(logging.WARNING)
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise EnvironmentFault(
            "lm-evaluation-harness is not installed", fix="run `pip install 'llmops[lm-eval]'`"
        ) from error
    if task.endswith((".yaml", ".yml")):
        import yaml

        file = Path(task)
        if not file.is_file():
            raise InputError(f"there is no file {task}", fix="give a task's name, or the YAML file that defines it")
        named = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("task:")]
        if not named:
            raise InputError(f"{task} defines no task", fix="name it there: `task: my_task`")
        # Only its own folder: the harness's thousands of tasks take many seconds to list.
        manager = TaskManager(include_path=str(file.parent), include_defaults=False)
        return str(yaml.safe_load(named[0])["task"]), manager
    manager = TaskManager()
    if task not in manager.all_tasks:
        raise InputError(
            f"lm-evaluation-harness has no task {task!r}{nearest(task, manager.all_tasks)}",
            fix="list them with `lm_eval ls tasks`",
        )
    return task, manager


def _model(asked: Asked, source: ModelSource) -> Any:
    """Our engines as the harness sees a model."""
    from lm_eval.api.model import LM

    class Ours(LM):
        tokenizer_name = source.digest

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            return asked.generated([request.args for request in requests])

        def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            return asked.likelihoods([request.args for request in requests])

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            return asked.whole_likelihoods([request.args[0] for request in requests])

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return as_text(chat_history)

        def chat_template(self, chat_template: bool | str = False) -> str:
            return "the model's own"

    return Ours()
