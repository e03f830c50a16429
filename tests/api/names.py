"""Names of what the seed makes: those of the documentation's examples, so that these work."""

MODEL = "offers"
SERVED_MODEL = "levels"
VERSIONS = ["2026-10-c", "2026-11-a"]
MEMBER = "mara"
UNIT = "tester-1"
# Several: some get revoked on the way.
CLIENT_ID = [f"cr_seed{number:08}" for number in range(20)]
TOKEN_ID = [f"at_seed{number:08}" for number in range(20)]
