"use strict";
// Sorts and filters the tables of the page. Cells hold text; numbers also in data-value ("" where there is none).

for (const box of document.querySelectorAll(".sortable")) {
  const table = box.querySelector("table");
  const body = table.tBodies[0];
  const form = box.querySelector("form");
  const rows = Array.from(body.rows, (row) => ({
    element: row,
    text: row.textContent.toLowerCase(),
    cells: Array.from(row.cells),
  }));

  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, index) => {
    head.querySelector("button").addEventListener("click", () => sortBy(head, index));
  });

  function sortBy(head, index) {
    const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heads) {
      other.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const keyed = rows.map((row) => ({ row, key: sortKey(row.cells[index]) }));
    keyed.sort((a, b) => compare(a.key, b.key, direction));
    const sorted = document.createDocumentFragment();
    for (const { row } of keyed) {
      sorted.append(row.element);
    }
    body.append(sorted);
  }

  function sortKey(cell) {
    const value = cell.dataset.value;
    if (value === undefined) {
      return cell.textContent;
    }
    if (value === "" || value === "nan") {
      return null;
    }
    return value.endsWith("inf") ? (value.startsWith("-") ? -Infinity : Infinity) : Number(value);
  }

  // What is missing stays at the end, whichever way the rest goes.
  function compare(a, b, direction) {
    if (a === null || b === null) {
      return (a === null) - (b === null);
    }
    if (typeof a === "number" && typeof b === "number") {
      return direction * (a < b ? -1 : a > b ? 1 : 0);
    }
    return direction * String(a).localeCompare(String(b), "en", { numeric: true });
  }

  const search = form.querySelector("input");
  const selects = Array.from(form.querySelectorAll("select"));
  const count = form.querySelector(".count");

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = selects.filter((select) => select.value !== "");
    let shown = 0;
    for (const row of rows) {
      const visible =
        words.every((word) => row.text.includes(word)) &&
        wanted.every((select) => row.cells[Number(select.dataset.column)].textContent === select.value);
      row.element.hidden = !visible;
      shown += visible ? 1 : 0;
    }
    count.textContent = `${shown === rows.length ? "" : `${shown} of `}${rows.length} ${box.dataset.things}`;
  }

  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter)); // the fields are emptied after the event
  filter(); // a browser may have kept what was in the fields
}
