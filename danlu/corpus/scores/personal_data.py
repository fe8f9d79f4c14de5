"""Personal data: found by its form, and by its check digits where it has them.

E-mail addresses; telephone numbers (Chinese and international forms); Chinese identity numbers (GB 11643-1999: 17
digits, of which eight are a date, and a check digit by ISO 7064 MOD 11-2); payment cards (ISO/IEC 7812: known first
digits, Luhn's check digit); public IP addresses.
"""

import datetime
import ipaddress
import re
from collections.abc import Callable

EMAIL = re.compile(
    r"(?<![A-Za-z0-9.+])[A-Za-z0-9_][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])", re.ASCII
)
IDENTITY = re.compile(r"(?<![0-9A-Za-z])[1-9]\d{16}[\dXx](?![0-9A-Za-z])", re.ASCII)
CARD = re.compile(
    r"(?<![\d.,-])(?:[2-6]\d{3}(?:[ -]?\d{4}){2}(?:[ -]?\d{1,7})|3[47]\d{2}[ -]?\d{6}[ -]?\d{5})(?![\d.,]?\d)",
    re.ASCII,
)
PHONE = re.compile(
    r"""(?<![\w.+/=-])(?:
    (?:\+?86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}                      # Chinese mobile
    |(?:\+?86[ -]?)?\(?0[1-9]\d{1,2}\)?[ -]\d{7,8}(?:-\d{1,5})?    # Chinese landline with its area code
    |(?:400|800)-\d{3,4}-\d{3,4}                                   # Chinese service numbers
    |\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}                         # international
    |\(\d{3}\)[ ]?\d{3}-\d{4}|\d{3}-\d{3}-\d{4}                    # North American
    )(?![\w-]|\.\d)""",
    re.VERBOSE | re.ASCII,
)
IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)", re.ASCII)
IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{4,39}(?![\w:])", re.ASCII)
VERSION_BEFORE = re.compile(r"(?:version|release|ver|v|版本)\W{0,3}$", re.IGNORECASE)
"""Four numbers with points after one of these are a version, not an address."""


def is_identity_number(text: str) -> bool:
    """True for 18 characters with a possible date of birth and the right check digit."""
    try:
        born = datetime.date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    weighted = sum(int(digit) * (1 << (17 - place)) % 11 for place, digit in enumerate(text[:17]))
    return 1850 <= born.year <= 2100 and "10X98765432"[weighted % 11] == text[17].upper()


def is_card_number(text: str) -> bool:
    """True for 13 to 19 digits that an issuer could have given, with Luhn's check digit."""
    digits = [int(digit) for digit in text if digit.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) < 2:
        return False
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_telephone(text: str) -> bool:
    """True where the digits are as many as a telephone number has (E.164: 15 at most)."""
    return 7 <= sum(map(str.isdigit, text)) <= 15


def is_public_address(text: str) -> bool:
    """True for an address that stands for a machine in the internet; private and documentation ranges do not."""
    if ":" in text and len(list(filter(None, text.split(":")))) < 3:
        return False  # `a::b` is an address too, but in text it is something else
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def is_email(text: str) -> bool:
    """True unless the domain is one of those set aside for examples (RFC 2606)."""
    domain = text.rpartition("@")[2].lower()
    return not re.search(r"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost)$", domain)


KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", EMAIL, is_email),
    ("identity", IDENTITY, is_identity_number),
    ("card", CARD, is_card_number),
    ("phone", PHONE, is_telephone),
    ("ip", IPV4, is_public_address),
    ("ip", IPV6, is_public_address),
)
"""In the order in which they are looked for: what is an identity number is no card, and neither is a telephone."""


def mask(text: str) -> tuple[str, int]:
    """The text with a placeholder such as `<email>` for each piece of personal data, and how many there were."""
    count = 0
    for name, pattern, holds in KINDS:
        if not worth_a_look(text, name):
            continue

        def replaced(found: re.Match[str], name: str = name, holds: Callable[[str], bool] = holds) -> str:
            nonlocal count
            if not holds(found[0]) or (
                name == "ip" and VERSION_BEFORE.search(found.string, max(0, found.start() - 12), found.start())
            ):
                return found[0]
            count += 1
            return f"<{name}>"

        text = pattern.sub(replaced, text)
    return text, count


NUMBERS_AND_POINTS = re.compile(r"\d\.\d{1,3}\.\d|:[0-9A-Fa-f]{0,4}:", re.ASCII)
MANY_DIGITS = re.compile(r"\d[\d .()-]{5,}\d", re.ASCII)


def worth_a_look(text: str, name: str) -> bool:
    """False where the text cannot hold that kind: most texts hold no long number and no `@` at all."""
    if name == "email":
        return "@" in text
    if name == "ip":
        return NUMBERS_AND_POINTS.search(text) is not None
    return MANY_DIGITS.search(text) is not None
