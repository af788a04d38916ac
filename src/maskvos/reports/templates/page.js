// Say where a table scrolls sideways, sort tables by a click on a heading, and show the values of a curve under the pointer.
for (const box of document.querySelectorAll(".scroll")) {
  const hint = document.createElement("p");
  hint.className = "note hint";
  hint.textContent = "Scroll the table sideways for more columns \u2192";
  box.before(hint);
  const measure = () => {
    const wide = box.scrollWidth > box.clientWidth + 1;
    hint.classList.toggle("wide", wide);
    if (wide) box.tabIndex = 0; // by the arrow keys, too
    else box.removeAttribute("tabindex");
  };
  measure();
  new ResizeObserver(measure).observe(box);
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const descending = heading.getAttribute("aria-sort") !== "descending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const column = heading.cellIndex;
    const body = heading.closest("table").tBodies[0];
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // rows without a score last in both directions
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
      return descending ? -order : order;
    });
    body.append(...rows);
  });
}
for (const chart of document.querySelectorAll(".curve svg")) {
  const output = chart.closest(".curve").querySelector("output");
  const usual = output.textContent;
  const series = [...chart.querySelectorAll("[data-name]")].map((path) => ({
    name: path.dataset.name,
    points: path.getAttribute("d").split(/[ML]/).slice(1).map((point) => point.split(" ").map(parseFloat)),
  }));
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * 1000;
    const nearest = series.map((line) => [
      line.name,
      line.points.reduce((a, b) => (Math.abs(b[0] - place) < Math.abs(a[0] - place) ? b : a)),
    ]);
    const frame = Math.round((nearest[0][1][0] / 1000) * (chart.dataset.frames - 1)) + 1;
    output.textContent = `no. ${frame}: ` + nearest.map(([name, p]) => `${name} ${(1 - p[1] / 100).toFixed(2)}`).join(", ");
  });
  chart.addEventListener("pointerleave", () => { output.textContent = usual; });
}
