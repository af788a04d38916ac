"""A page in the browser that segments clips on this machine: ``maskvos app``."""
