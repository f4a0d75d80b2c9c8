#include "tools/report/html.h"

namespace adder::tools {

std::string_view report_style() {
  return R"css(
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #16181d; --ink2: #565d68; --rule: #dfe3e8;
  --grid: #eceff2; --field: #f3f5f7; --accent: #c2410c; --good: #14713f; --bad: #b42318;
  --goodbg: #e3f4ea; --badbg: #fdebe9;
  --c0: #6d4bc3; --c1: #1f6fd0; --c2: #d4500f; --c3: #0f8a63;
  --f1: #e9edf1; --f2: #dde2e8; --f3: #cdd4dc; --f4: #b9c2cd; --f5: #a1adba; --f6: #8794a3;
  --s1: #fdd0a8; --s2: #fbb27a; --s3: #f68f48; --s4: #e36a1c; --s5: #b94c0b; --s6: #7f3106;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101216; --card: #181b21; --ink: #eceef2; --ink2: #a2abb8; --rule: #2d323b;
    --grid: #252a32; --field: #1d2128; --accent: #ff9a57; --good: #6ad49b; --bad: #ff8f84;
    --goodbg: #12301f; --badbg: #3a1917;
    --c0: #a78bfa; --c1: #5fa5f5; --c2: #ff8a45; --c3: #3cc795;
    --f1: #232830; --f2: #2c323b; --f3: #373e49; --f4: #444d59; --f5: #54606d; --f6: #677482;
    --s1: #5c2c0d; --s2: #86400f; --s3: #b25513; --s4: #dd6d1c; --s5: #fa9345; --s6: #ffc48f;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans",
  sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header .kicker { color: var(--ink2); margin: 0 0 .4rem; font-size: .95rem; }
h1 { font-size: clamp(1.5rem, 3.4vw, 2.15rem); line-height: 1.2; margin: 0 0 1rem;
  letter-spacing: -.015em; text-wrap: balance; }
h2 { font-size: 1.3rem; margin: 0 0 .35rem; letter-spacing: -.01em; }
h3 { font-size: 1.02rem; margin: 0; }
h4 { margin: 1rem 0 .2rem; }
header p { max-width: 46rem; margin: .6rem 0; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 1.4rem 1.5rem 1.5rem; margin-top: 1.5rem; }
section > p, figcaption p { color: var(--ink2); max-width: 48rem; margin: .2rem 0 1rem; }
figure { margin: 1.4rem 0 0; }
section > figure:first-of-type { margin-top: .8rem; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .55rem .7rem; border-bottom: 1px solid var(--rule);
  vertical-align: top; white-space: nowrap; }
thead th { color: var(--ink2); font-weight: 600; font-size: .86rem; border-bottom-width: 2px;
  vertical-align: bottom; }
tbody th, th:first-child { text-align: left; font-weight: 600; }
tbody tr:last-child > * { border-bottom: 0; }
.what { display: block; font-weight: 400; font-size: .86rem; color: var(--ink2);
  white-space: normal; max-width: 22rem; }
.swatch { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%;
  margin-right: .5rem; border: 2px solid var(--ink2); }
.swatch.c0 { background: var(--c0); border-color: var(--c0); }
.swatch.c1 { background: var(--c1); border-color: var(--c1); }
.swatch.c2 { background: var(--c2); border-color: var(--c2); }
.swatch.c3 { background: var(--c3); border-color: var(--c3); }
.score { min-width: 11rem; }
.score b { font-size: 1.05rem; }
.bar { display: block; height: 8px; border-radius: 4px; background: var(--field); margin-top: .3rem;
  overflow: hidden; box-shadow: inset 0 0 0 1px var(--rule); }
.bar i { display: block; height: 100%; background: var(--ink2); border-radius: 4px; }
.bar i.c0 { background: var(--c0); } .bar i.c1 { background: var(--c1); }
.bar i.c2 { background: var(--c2); } .bar i.c3 { background: var(--c3); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; padding: 0;
  margin: .6rem 0; font-size: .9rem; color: var(--ink2); }
.legend svg { vertical-align: -1px; margin-right: .45rem; }
svg.chart, svg.map { display: block; width: 100%; min-width: 40rem; height: auto; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  fill: var(--ink2); }
svg text.label { font-size: 12.5px; }
svg text.name { font-size: 13px; font-weight: 600; }
.t0 { fill: var(--c0) !important; } .t1 { fill: var(--c1) !important; }
.t2 { fill: var(--c2) !important; } .t3 { fill: var(--c3) !important; }
.grid { stroke: var(--grid); } .tick { stroke: var(--ink2); stroke-opacity: .6; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.dashed { stroke-dasharray: 2 5; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); }
.line.c2 { stroke: var(--c2); } .line.c3 { stroke: var(--c3); }
.mark { stroke: var(--card); stroke-width: 1.5; }
.mark.c0 { fill: var(--c0); } .mark.c1 { fill: var(--c1); }
.mark.c2 { fill: var(--c2); } .mark.c3 { fill: var(--c3); }
.layer figcaption { font-weight: 600; font-size: .95rem; margin-bottom: .3rem; }
.field { fill: var(--field); } .pick { fill: var(--accent); } .hover { fill: transparent; }
.f1 { fill: var(--f1); } .f2 { fill: var(--f2); } .f3 { fill: var(--f3); }
.f4 { fill: var(--f4); } .f5 { fill: var(--f5); } .f6 { fill: var(--f6); }
.s1 { fill: var(--s1); } .s2 { fill: var(--s2); } .s3 { fill: var(--s3); }
.s4 { fill: var(--s4); } .s5 { fill: var(--s5); } .s6 { fill: var(--s6); }
.entry { display: inline-block; margin-right: .8rem; font-variant-numeric: tabular-nums; }
details { margin-top: 1rem; } summary { cursor: pointer; color: var(--ink2); }
.sample { border-top: 1px solid var(--rule); padding: 1rem 0; }
.sample:first-of-type { border-top: 0; padding-top: .2rem; }
.sample:last-of-type { padding-bottom: 0; }
.sample dl { display: grid; grid-template-columns: 8.5rem 1fr; gap: .3rem 1rem; margin: 0; }
.sample dt { color: var(--ink2); font-size: .92rem; }
.sample dd { margin: 0; overflow-wrap: anywhere; }
.text { white-space: pre-wrap; }
code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.tag { font-size: .78rem; font-weight: 600; border-radius: 999px; padding: .08rem .55rem;
  margin-left: .5rem; white-space: nowrap; }
.right { color: var(--good); background: var(--goodbg); }
.wrong { color: var(--bad); background: var(--badbg); }
mark { color: var(--bad); background: var(--badbg); border-radius: 3px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 0 2.5rem; }
.pairs h3 { margin-top: .8rem; }
.pairs td { text-align: right; white-space: normal; overflow-wrap: anywhere; }
.pairs th { font-weight: 400; color: var(--ink2); }
.pairs th, .pairs td { padding: .3rem 0; font-size: .92rem; }
footer { color: var(--ink2); font-size: .88rem; margin-top: 1.5rem; }
@media (max-width: 40rem) {
  main { padding: 1.25rem .75rem 2rem; }
  section { padding: 1rem; border-radius: 10px; }
  .sample dl { grid-template-columns: 1fr; gap: .1rem; }
  .sample dd { margin-bottom: .4rem; }
  .score { min-width: 6rem; }
}
@media print { section { break-inside: avoid; } body { background: none; } }
)css";
}

}  // namespace adder::tools
