"""Put the labels in doubt, and what speaks against them, on one HTML page that loads nothing."""

from markupsafe import Markup

from weft.lab._report.page import _asset, _environment, _percent
from weft.lab._report.pictures import Sheet, as_tiles, show_tile
from weft.lab.audit import Audit
from weft.lab.data import Dataset


def render_audit(audit: Audit, data: Dataset, *, path: str) -> str:
    """Return the page.

    Args:
        audit: what was found.
        data: whose training part was audited.
        path: of the run.
    """
    inputs = data.train_inputs
    shown = {doubt.example for doubt in audit.doubts}
    shown |= {reason.example for doubt in audit.doubts for reason in doubt.against}
    rows = sorted(shown)
    sheet = Sheet()
    tiles = as_tiles(inputs[rows].numpy(), like=inputs.numpy())
    places = dict(zip(rows, sheet.add(tiles), strict=True))

    def tile(example: int, size: int, name: str) -> Markup:
        return show_tile(sheet, places[example], size, name)

    template = _environment().get_template("audit.html")
    return template.render(
        audit=audit,
        data=data.name,
        path=path,
        sheet=sheet,
        style=_asset("style.css"),
        percent=_percent,
        tile=tile,
    )
