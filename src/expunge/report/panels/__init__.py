"""What only some models have on the report page, a module a panel, found by its name in `Entry.panels`.

A panel is a module (of this folder, or a plug-in of the group `expunge.panels`) with

    html(report_data: ReportData, rows: Sequence[Group]) -> str    its finished, escaped sections; '' where it has nothing to show
    STYLE: str                                                     optional: its CSS

A section that has the attribute `data-nav` gets a link in the page's navigation, named by the attribute.
"""
