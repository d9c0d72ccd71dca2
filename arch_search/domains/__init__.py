"""What a search is about: one folder for each domain, with its DOMAIN."""

from arch_search.domains.domain import Domain, Words, domain_named

__all__ = ["Domain", "Words", "domain_named"]
