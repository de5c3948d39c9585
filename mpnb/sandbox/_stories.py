"""The made-up project: its kinds of events, their properties, and the order in which people do things."""

from __future__ import annotations

import random
from collections.abc import Callable

Properties = dict[str, object]

# How often, and which events in a row: a visit thins out on its way to a purchase, as funnels do.
SCRIPTS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (30, ("Page View",)),
    (16, ("Page View", "Page View", "Page View")),
    (14, ("App Open", "Page View", "Search", "Page View")),
    (9, ("App Open", "Search", "Search", "Page View", "Add to Cart")),
    (5, ("Page View", "Search", "Page View", "Add to Cart", "Purchase")),
    (3, ("Page View", "Page View", "Sign Up", "App Open", "Invite Sent")),
    (3, ("App Open", "Error")),
    (2, ("Page View", "Error", "Page View", "Error")),
    (1, ("App Open", "Page View", "Subscription Changed")),
)

# Weight, library, system, browser.
PLATFORMS = (
    (26, "web", "Windows", "Chrome"),
    (18, "web", "Mac OS X", "Safari"),
    (9, "web", "Linux", "Firefox"),
    (5, "web", "Windows", "Microsoft Edge"),
    (22, "swift", "iOS", ""),
    (20, "android", "Android", ""),
)

PLACES = (
    ("US", "California", "San Francisco"),
    ("US", "New York", "New York"),
    ("US", "Texas", "Austin"),
    ("BR", "São Paulo", "São Paulo"),
    ("DE", "Nordrhein-Westfalen", "Köln"),
    ("FR", "Île-de-France", "Paris"),
    ("PL", "Łódzkie", "Łódź"),
    ("JP", "Tokyo", "東京"),
    ("IN", "Karnataka", "Bengaluru"),
    ("AU", "Victoria", "Melbourne"),
)

PRODUCTS = (
    ("Café press", 34.5, ["kitchen", "coffee"]),
    ("Wool socks", 12.0, ["clothes"]),
    ("Désk lamp", 49.0, ["home", "light", "office"]),
    ("抹茶 whisk", 18.25, ["kitchen", "tea"]),
    ('Notebook "A5"', 7.9, ["office", "paper"]),
    ("Trail shoes", 119.0, ["clothes", "outdoor"]),
)


def own_properties(kind: str, rng: random.Random) -> Properties:
    """
    Return made-up values for the properties that a kind of event has of its own.

    Raises:
        KeyError: the kind is in none of the scripts.
    """
    return _OWN[kind](rng)


def _product(rng: random.Random) -> Properties:
    name, price, tags = rng.choice(PRODUCTS)
    return {"sku": f"SKU-{rng.randint(1, 9999):04}", "name": name, "price": price, "tags": tags}


def _page_view(rng: random.Random) -> Properties:
    path = rng.choice(("/", "/pricing", "/docs/getting-started", "/products/café-press", "/blog/été-2025", "/account"))
    own: Properties = {
        "$current_url": f"https://shop.example{path}",
        "page_title": f"{path.strip('/').replace('-', ' ').title() or 'Home'} · Made-up Shop",
        "seconds_on_page": round(rng.expovariate(1 / 40), 2),
        "scroll_depth": rng.randint(0, 100),
    }
    if rng.random() < 0.4:
        own["utm"] = {"source": rng.choice(("newsletter", "search", "ads")), "campaign": f"spring-{rng.randint(1, 9)}"}
    if rng.random() < 0.6:
        own["$referrer"] = rng.choice(("https://search.example/", "https://news.example/item?id=1", "$direct"))
    return own


def _search(rng: random.Random) -> Properties:
    # U+2028 ends no line of JSONL, whatever str.splitlines() thinks.
    query = rng.choice(("café press", "wool\u2028socks", "déjà vu", "東京 map", 'shoes "43"', "tea\tgreen", "🍵"))
    return {
        "query": query,
        "results": rng.choice((0, 3, 17, 240)),
        "filters": {"price": [rng.randint(0, 20), rng.randint(50, 200)], "in_stock": rng.random() < 0.5, "brand": None},
        "sort.by": rng.choice(("price", "relevance")),
    }


def _add_to_cart(rng: random.Random) -> Properties:
    product = _product(rng)
    return {
        "product": product,
        "quantity": rng.randint(1, 4),
        "cart_size": rng.randint(1, 12),
        "price": product["price"],
    }


def _purchase(rng: random.Random) -> Properties:
    items = [_product(rng) | {"quantity": rng.randint(1, 3)} for _ in range(rng.randint(1, 4))]
    return {
        "order_id": rng.randint(10**18, 9 * 10**18),
        "items": items,
        "amount": round(rng.uniform(5, 400), 2),
        "currency": rng.choice(("USD", "EUR", "JPY")),
        "coupon": rng.choice((None, "WELCOME10", "ÉTÉ")),
        "gift": rng.random() < 0.1,
        "shipping": {"method": rng.choice(("post", "pickup")), "address": {"zip": f"{rng.randint(0, 99999):05}"}},
    }


def _sign_up(rng: random.Random) -> Properties:
    return {
        "method": rng.choice(("email", "google", "apple")),
        "referral_code": rng.choice((None, "FRIEND-ŻÓŁĆ", "AB12")),
        "experiments": [f"exp-{rng.randint(1, 30)}" for _ in range(rng.randint(0, 3))],
        "newsletter": rng.random() < 0.3,
    }


def _app_open(rng: random.Random) -> Properties:
    return {
        "$app_version_string": f"{rng.randint(3, 5)}.{rng.randint(0, 20)}.{rng.randint(0, 9)}",
        "from_notification": rng.random() < 0.2,
        "battery_level": round(rng.random(), 2),
        "$carrier": rng.choice(("Télécom", "Vodafone", None)),
        "session_number": rng.randint(1, 400),
    }


def _error(rng: random.Random) -> Properties:
    return {
        # The type drifts, and two names are those of columns.
        "code": rng.choice((404, "E_TIMEOUT", 500.5)),
        "event": "click",
        "insert_id": rng.randint(1, 99),
        "message": rng.choice(("Cannot read 'x' of undefined\nat line 3", "C:\\temp\\file not found", "Überlauf")),
        "stack": [f"frame{n}@app.js:{rng.randint(1, 900)}" for n in range(rng.randint(1, 4))],
        "fatal": rng.random() < 0.1,
    }


def _invite_sent(rng: random.Random) -> Properties:
    count = rng.randint(1, 5)
    return {
        "channel": rng.choice(("email", "link", "sms")),
        "count": rng.choice((count, str(count))),
        "invitees": [
            {"role": rng.choice(("admin", "member")), "team": f"team-{rng.randint(1, 40)}"} for _ in range(count)
        ],
    }


def _subscription_changed(rng: random.Random) -> Properties:
    return {
        "from plan": rng.choice(("free", "pro", "team")),
        "to plan": rng.choice(("pro", "team", "none")),
        "mrr": rng.choice((0, 19, 49.5, None)),
        "seats": rng.randint(1, 80),
        "trial_ends": f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T00:00:00",
    }


_OWN: dict[str, Callable[[random.Random], Properties]] = {
    "Add to Cart": _add_to_cart,
    "App Open": _app_open,
    "Error": _error,
    "Invite Sent": _invite_sent,
    "Page View": _page_view,
    "Purchase": _purchase,
    "Search": _search,
    "Sign Up": _sign_up,
    "Subscription Changed": _subscription_changed,
}
