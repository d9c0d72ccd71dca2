"""What a search is about: one folder for each domain, with its DOMAIN."""

from arch_search.domains.domain import PROMPT_WORDS, Domain, Words, class_names, domain_named

__all__ = ["PROMPT_WORDS", "Domain", "Words", "class_names", "domain_named"]
