"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const holders = [...document.querySelectorAll(".chart")];
  const menu = document.getElementById("attack");
  const boxes = [...document.querySelectorAll("#legend input")];
  const root = document.documentElement;
  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Colors come from the style sheet, so that charts follow the page from light to dark and to paper.
  function themed(layout) {
    const axis = {
      gridcolor: color("--grid"), linecolor: color("--line"),
      zeroline: false, automargin: true, fixedrange: true,
    };
    return {
      ...layout,
      xaxis: { ...axis, showline: true, ...layout.xaxis },
      yaxis: { ...axis, ...layout.yaxis },
      shapes: layout.shapes.map((s) => ({ ...s, line: { ...s.line, color: color("--muted"), width: 1 } })),
      annotations: layout.annotations.map((a) => ({ ...a, font: { color: color("--muted"), size: 12 } })),
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: color("--muted") },
      hoverlabel: {
        bgcolor: color("--surface"), bordercolor: color("--line"), align: "left",
        font: { color: color("--ink"), size: 13 },
      },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--muted"), activecolor: color("--ink") },
      margin: { l: 10, r: 14, t: 12, b: 10 },
      hovermode: "closest",
      dragmode: false,
      showlegend: false,
      autosize: true,
    };
  }

  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg", filename: document.title },
  };

  function draw(holder) {
    const chart = charts[holder.dataset.chart];
    const single = holder.closest(".panels");
    const view = chart.views[Math.min(menu?.selectedIndex ?? 0, chart.views.length - 1)];
    const shown = new Set(boxes.filter((box) => box.checked).map((box) => Number(box.value)));
    const data = view.data.map((trace) => ({
      ...trace, visible: Boolean(single) || trace.meta === undefined || shown.has(trace.meta),
    }));
    const note = document.getElementById(`note-${holder.dataset.chart}`);
    if (note) note.textContent = view.note;
    const layout = themed(chart.layout);
    if (root.classList.contains("print")) {
      // Paper has no window to measure: what fits A4 and Letter inside the margins.
      Object.assign(layout, { autosize: false, width: single ? 310 : 660, height: single ? 250 : 400 });
    }
    Plotly.react(holder, data, layout, { ...config, displayModeBar: !single });
  }
  const drawAll = () => holders.forEach(draw);

  menu?.addEventListener("change", drawAll);
  boxes.forEach((box) => box.addEventListener("change", drawAll));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

  // On paper: light colors, and all tables and the spec open. Samples stay folded, unless the reader opened them.
  let folded = [];
  addEventListener("beforeprint", () => {
    root.classList.add("print");
    folded = [...document.querySelectorAll("details:not([open], .drawer)")];
    folded.forEach((part) => { part.open = true; });
    drawAll();
  });
  addEventListener("afterprint", () => {
    root.classList.remove("print");
    folded.forEach((part) => { part.open = false; });
    drawAll();
  });

  drawAll();
})();
