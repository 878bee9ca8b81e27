"""The one sentence that stands on every result."""

NOTICE = "Research use only. A translated image can add or remove disease; it is not for diagnosis."
