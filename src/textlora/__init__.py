"""textlora: LoRA fine-tuning of small encoders for text classification."""
