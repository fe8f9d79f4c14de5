"""Any OpenAI-compatible endpoint as a model of the harness, through the official client.

In: the harness's requests. Out: texts alone: endpoints give no likelihoods of given continuations, so choices are read
from replies. A request that fails ends the run with what was answered kept; a reply is never made up for it. A prompt
that is too long is no failure: it is asked with fewer examples, and counted.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from danlu.evaluation.harness.prompt import FewShotPrompt, Reply
from danlu.run.errors import UserError
from danlu.run.progress import ProgressBar

CONCURRENT = 8
"""Requests at once. Our choice: as many as a small server answers side by side."""

TRIES = 4
"""Times a request is made again before it has failed; the client waits longer each time."""

TIMEOUT_S = 600.0
"""Of a request. Our choice: long replies of slow machines."""

MOST_STOPS = 4
"""Stop texts that the protocol allows; the reply is cut at the others here."""

TOO_LONG_STATUSES = (400, 413, 422)
TOO_LONG = re.compile(r"context[ _](length|size|window)|too long|maximum (context|model) ?len|tokens.*must be <=", re.I)
"""How servers that do not give OpenAI's code say that a prompt does not fit: llama.cpp, vLLM, TGI."""

LEAST_REPLY = 16
"""Tokens of a reply under which a question is called too long for an endpoint. Our choice."""


class EndpointLM(LM):
    """A model behind an address. `chat` uses `/chat/completions`, else `/completions` is given the plain prompt."""

    def __init__(self, address: str, model: str, chat: bool) -> None:
        super().__init__()
        try:
            from openai import OpenAI
        except ImportError as error:
            raise UserError("openai is not installed", mend="pip install 'danlu[eval]'") from error
        self.address, self.name, self.chat = address, model, chat
        # Local servers want no key, the client wants one in any case.
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self.client = OpenAI(base_url=address, api_key=key, max_retries=TRIES, timeout=TIMEOUT_S)

    @property
    def tokenizer_name(self) -> str:
        return self.name

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The endpoint's reply to each prompt, in order."""
        results: list[str] = [""] * len(requests)
        pool = ThreadPoolExecutor(CONCURRENT)
        with ProgressBar("replies", total=len(requests), unit="replies") as bar:
            asked = {pool.submit(self._reply, *request.args): number for number, request in enumerate(requests)}
            try:
                for future in as_completed(asked):
                    number = asked[future]
                    results[number] = future.result()
                    self.cache_hook.add_partial("generate_until", requests[number].args, results[number])
                    bar.advance()
            except BaseException:
                self.client.close()  # Nobody waits for requests that hang.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        pool.shutdown()
        return results

    def _reply(self, prompt: str, wanted: dict[str, Any]) -> Reply:
        """The reply, cut at its stop texts. A prompt that is too long for the endpoint loses its first examples one by
        one, as with a model of our own, then half of its reply's room; where not even the question fits the reply is
        empty and says so."""
        left_out = 0
        while (answer := self._answer(prompt, wanted)) is None:
            room = wanted.get("max_gen_toks", 256)
            if isinstance(prompt, FewShotPrompt) and prompt.examples:
                prompt, left_out = prompt.without_first(1), left_out + 1
            elif room > LEAST_REPLY:
                wanted = {**wanted, "max_gen_toks": room // 2}
            else:
                return Reply("", None)
        stop = wanted.get("until") or ()
        text, is_cut = answer
        ended = min((text.partition(word)[0] for word in stop), key=len, default=text)
        return Reply(ended, left_out, is_cut and ended == text)

    def _answer(self, prompt: str, wanted: dict[str, Any]) -> tuple[str, bool] | None:
        """What the endpoint says, and whether that is cut at its length; None for a prompt that is too long for it."""
        from openai import APIStatusError, OpenAIError

        stop = list(wanted.get("until") or ())
        values = {
            "model": self.name,
            "temperature": wanted.get("temperature", 0.0),
            "max_tokens": wanted.get("max_gen_toks", 256),
            **({"stop": stop[:MOST_STOPS]} if stop else {}),
            **({"seed": wanted["seed"]} if "seed" in wanted else {}),
        }
        try:
            if self.chat:
                plain = [{"role": "user", "content": str(prompt)}]
                turns: Any = prompt.messages if isinstance(prompt, FewShotPrompt) else plain
                turn = self.client.chat.completions.create(messages=turns, **values).choices[0]
                return turn.message.content or "", turn.finish_reason == "length"
            choice = self.client.completions.create(prompt=str(prompt), **values).choices[0]
            return choice.text or "", choice.finish_reason == "length"
        except OpenAIError as error:
            if isinstance(error, APIStatusError) and _is_too_long(error):
                return None
            raise UserError(
                f"the endpoint refuses or does not answer: {str(error).strip().rstrip('.')[:300]}",
                where=self.address,
                mend="Is it running, and does it know this model?",
            ) from error
        except (AttributeError, IndexError, TypeError) as error:
            raise UserError("the answer is not of OpenAI's shape", where=self.address, mend="Is it an API?") from error

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Raises UserError: an endpoint gives none."""
        raise UserError("an endpoint gives no likelihoods of choices", where=self.address)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Raises UserError: an endpoint gives none."""
        raise UserError("an endpoint gives no likelihoods of texts", where=self.address)


def _is_too_long(error: Any) -> bool:
    """Whether a status error says that the prompt does not fit."""
    if error.status_code not in TOO_LONG_STATUSES:
        return False
    is_coded = "context_length_exceeded" in (error.code, error.type) or error.type == "exceed_context_size_error"
    return is_coded or error.status_code == 413 or bool(TOO_LONG.search(error.response.text))
