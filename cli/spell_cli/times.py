"""How durations, moments and sizes are written for people."""

from datetime import UTC, datetime, timedelta

_DATE_AFTER = timedelta(days=14)


def go_duration(seconds: float) -> str:
    """A duration as the original writes it: `6.870837s`, `1m7.057677s`, `44h36m34.553059s`, `12.5ms`."""
    micros = max(0, round(seconds * 1_000_000))
    if micros == 0:
        return "0s"
    if micros < 1_000:
        return f"{micros}µs"
    if micros < 1_000_000:
        return f"{_trimmed(micros, 1_000)}ms"
    minutes, rest = divmod(micros, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_trimmed(rest, 1_000_000)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _trimmed(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    if not fraction:
        return str(whole)
    return f"{whole}.{str(fraction).zfill(len(str(unit)) - 1).rstrip('0')}"


def moment(text: str) -> datetime:
    """An ISO 8601 moment of the server."""
    value = datetime.fromisoformat(text)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def local_time(text: str) -> str:
    """A moment in the reader's time zone."""
    return moment(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def relative(text: str, now: datetime) -> str:
    """How long ago a moment was: `3 hours ago`, and a date when it is more than two weeks."""
    then = moment(text)
    if now - then > _DATE_AFTER:
        return then.astimezone().strftime("%Y-%m-%d")
    seconds = max(0, int((now - then).total_seconds()))
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count != 1 else ''} ago"
    return "just now"


def listing_date(text: str | None, now: datetime) -> str:
    """The date column of `spell ls`: `Apr 27 23:50`, or `Apr 27 2019` when older than a year."""
    if text is None:
        return "-"
    then = moment(text)
    return then.astimezone().strftime("%b %d %Y" if now - then > timedelta(days=365) else "%b %d %H:%M")


def human_size(size: int) -> str:
    """A size with a unit: `512`, `1.5K`, `140M`."""
    if size < 1024:
        return str(size)
    value = float(size)
    for unit in "KMGTPE":
        value /= 1024
        if value < 1023.5 or unit == "E":
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return str(size)
