"""A transformers causal language model as a plain function from prompt to completion, decoded greedily."""

from __future__ import annotations

from collections.abc import Callable

from glint.core.errors import InputError


def load_generate(model_id: str, *, max_new_tokens: int) -> Callable[[str], str]:
    """Load a hub id or folder; the function returns the completion alone. Greedy, so equal prompts give equal answers.

    Raises:
        InputError: the model can't be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_id)
        model = AutoModelForCausalLM.from_pretrained(model_id).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"sections.language_model {model_id}: not loadable; give a folder or hub id") from error
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    def generate(prompt: str) -> str:
        text = prompt
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}]
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        encoded = tokenizer(text, return_tensors="pt", truncation=True).to(model.device)
        with torch.inference_mode():
            out = model.generate(
                **encoded,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
        return str(tokenizer.decode(out[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True))

    return generate
