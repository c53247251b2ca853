"""An OpenAI-compatible HTTP endpoint over one bundle: what is asked, who writes, what is answered, what is counted."""
