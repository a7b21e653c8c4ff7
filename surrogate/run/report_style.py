"""The style sheet of the report: light, dark and print."""

CSS = """
:root{color-scheme:light dark;--ink:#1d1d1f;--dim:#5c5c62;--page:#fff;--card:#f5f6f8;--line:#dcdde1;
--win:#0060a0;--loss:#b3261e;--tie:#7a5c00}
@media (prefers-color-scheme:dark){:root{--ink:#ececee;--dim:#a5a5ad;--page:#17181b;--card:#212328;--line:#3a3c43;
--win:#6cb8f0;--loss:#ff8a80;--tie:#e6c35c}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:68rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.6rem 0 .6rem}h3{font-size:1rem;display:inline;margin:0}
.sub,.note,figcaption,small{color:var(--dim)}.sub{margin:.25rem 0 1.2rem}.note,figcaption{font-size:.875rem}
.verdict{border-left:.4rem solid var(--dim);background:var(--card);padding:.8rem 1.1rem;border-radius:.3rem;
font-size:1.08rem}
.verdict p{margin:.1rem 0;overflow-wrap:anywhere}
.verdict .badge{font-size:.8rem;font-weight:700;letter-spacing:.04em;text-transform:uppercase;color:var(--dim)}
.verdict.good{border-color:var(--win)}.verdict.good .badge{color:var(--win)}
.verdict.mixed{border-color:var(--tie)}.verdict.mixed .badge{color:var(--tie)}
.verdict.bad{border-color:var(--loss)}.verdict.bad .badge{color:var(--loss)}
.win{color:var(--win)}.loss{color:var(--loss)}.tie{color:var(--tie)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;margin:.5rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.22rem .7rem;text-align:right;vertical-align:top}
th{text-align:left;font-weight:400}thead th{color:var(--dim);border-bottom:1px solid var(--line);text-align:right}
thead th:first-child,.scores thead th:nth-child(2),.facts thead th,.facts td{text-align:left}
.facts th{color:var(--dim);white-space:nowrap}.facts td{overflow-wrap:anywhere}
.scores td,.scores thead th{white-space:nowrap}
.scores tbody{border-bottom:1px solid var(--line)}.scores th[rowspan]{font-weight:600;overflow-wrap:anywhere}
.scores th[rowspan] small{font-weight:400;display:block}
.own>*:not([rowspan]){background:var(--card)}.own th[scope=row]{font-weight:600}
figure{margin:1.4rem 0}img{display:block;max-width:100%;height:auto;background:#fff;border-radius:.3rem;padding:.4rem}
figcaption{margin-top:.35rem;max-width:50rem}
pre{background:var(--card);padding:.8rem 1rem;border-radius:.3rem;overflow-x:auto;font-size:.85rem}
details{margin:.5rem 0}summary{cursor:pointer;padding:.15rem 0}
@media print{:root{--ink:#000;--page:#fff;--card:#f2f2f2;--line:#ccc;--win:#004c80;--loss:#9c1c15;--tie:#665000}
main{max-width:none;padding:0}body{font-size:11px}figure,.verdict,.scores tbody{break-inside:avoid}
h2{break-after:avoid}pre{white-space:pre-wrap}.wide{overflow:visible}
details::details-content{content-visibility:visible;block-size:auto}}
"""
