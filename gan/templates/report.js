"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const slider = document.getElementById("moment");
  if (!slider) return;
  const text = document.getElementById("moment-text");
  const colours = ["#1f77b4", "#e1701a", "#2ca02c", "#c43c3c", "#8e6bbd", "#8c6d54", "#c858a8", "#3aa6b9"];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const end = data.end;
  let plots = [], moving = false;

  const short = (value) => value == null ? "–" : Math.abs(value) >= 1000
    ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));

  function marks(u) {  // alarms and rescues, as vertical lines
    const {ctx} = u, {left, top, width, height} = u.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    for (const event of data.events) {
      const x = Math.round(u.valToPos(event.images, "x", true));
      ctx.strokeStyle = event.rescue ? "#c43c3c" : "#b58900";
      ctx.setLineDash(event.rescue ? [] : [4, 4]);
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + height);
      ctx.stroke();
    }
    ctx.restore();
  }

  function makePlot(chart, place) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--quiet"), line = style.getPropertyValue("--line");
    const axis = {stroke: ink, grid: {stroke: line, width: 1}, ticks: {stroke: line}};
    const series = chart.series.map((name, i) => ({
      label: name, stroke: colours[i % colours.length], width: 1.5, spanGaps: true,
      points: {show: chart.dots, size: 6}, value: (_, value) => short(value),
    }));
    const images = (value) => value >= 1e6 ? `${value / 1e6}M` : value >= 1e3 ? `${value / 1e3}k` : value;
    return new uPlot({
      width: place.clientWidth, height: 230,
      scales: {x: {time: false}, y: chart.log ? {distr: 3} : {}},
      axes: [
        {...axis, values: (_, all) => all.map(images), label: "images shown to D", labelSize: 18, size: 34},
        {...axis, size: 56},
      ],
      series: [{label: "images", value: (_, value) => short(value)}, ...series],
      cursor: {drag: {x: false, y: false}, sync: {key: "moment", setSeries: false}},
      hooks: {draw: [marks], setCursor: [(u) => follow(u)]},
    }, [chart.x, ...chart.values], place);
  }

  function follow(u) {
    if (moving || u.cursor.left == null || u.cursor.left < 0) return;
    const images = u.posToVal(u.cursor.left, "x");
    slider.value = Math.round(1000 * Math.max(0, Math.min(1, images / end)));
    showMoment();
  }

  function moveCursors() {
    moving = true;
    const images = end * slider.value / 1000;
    for (const u of plots) {
      u.setCursor({left: u.valToPos(images, "x"), top: u.over.clientHeight / 2}, true);
    }
    moving = false;
  }

  const figures = data.previews.map(({name}) => {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    const picture = document.createElement("img");
    figure.append(picture, caption);
    document.getElementById("previews").append(figure);
    return {name, picture, caption};
  });

  function showMoment() {
    const images = end * slider.value / 1000;
    const minutes = data.minutes.x.length ? interpolate(data.minutes.x, data.minutes.y, images) : 0;
    text.value = `${Math.round(images).toLocaleString("en")} images, ${minutes.toFixed(1)} minutes`;
    slider.setAttribute("aria-valuetext", text.value);
    figures.forEach(({name, picture, caption}, i) => {
      const all = data.previews[i].all, before = all.filter((each) => each.images <= images + 1);
      const chosen = before.length ? before[before.length - 1] : all[0];
      if (picture.dataset.images === String(chosen.images)) return;
      picture.dataset.images = chosen.images;
      picture.src = chosen.uri;
      const at = `after ${chosen.images.toLocaleString("en")} images`;
      picture.alt = `Preview of ${name} ${at}`;
      caption.textContent = `${data.previews.length > 1 ? `${name}, ` : ""}the same noise ${at}`;
    });
  }

  function interpolate(x, y, at) {
    const next = x.findIndex((value) => value >= at);
    if (next <= 0) return next ? y[y.length - 1] : y[0] * at / (x[0] || 1);
    return y[next - 1] + (y[next] - y[next - 1]) * (at - x[next - 1]) / (x[next] - x[next - 1]);
  }

  function draw() {
    plots.forEach((plot) => plot.destroy());
    const places = document.querySelectorAll("#charts .chart > div");
    plots = data.charts.map((chart, i) => makePlot(chart, places[i]));
    setTimeout(moveCursors);  // when they have been laid out
  }

  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    draw();
  });
  dark.addEventListener("change", draw);
  slider.oninput = () => {
    showMoment();
    moveCursors();
  };
  draw();
  showMoment();
})();
