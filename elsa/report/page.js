// Tables that sort: numbers by their data-key, words as such, what is missing last.
const keyOf = (row, column) => {
  const cell = row.cells[column]
  return cell.dataset.key === undefined ? cell.textContent.trim() : Number(cell.dataset.key)
}
const before = (one, other) =>
  typeof one === typeof other ? (typeof one === "number" ? one - other : one.localeCompare(other)) : typeof one === "number" ? -1 : 1

for (const head of document.querySelectorAll("th")) {
  head.querySelector("button")?.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending"
    const body = head.closest("table").tBodies[0]
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort")
    head.setAttribute("aria-sort", up ? "ascending" : "descending")
    const missing = (row) => row.cells[head.cellIndex].textContent.trim() === "--"
    const rows = [...body.rows].sort((one, other) => {
      if (missing(one) || missing(other)) return missing(one) - missing(other)
      const order = before(keyOf(one, head.cellIndex), keyOf(other, head.cellIndex))
      return up ? order : -order
    })
    body.append(...rows)
  })
}

// Pictures, each drawn when it comes near; a row that is switched off is off in all of them.
const off = new Set()
const show = (document) => {
  for (const model of document.all_models) {
    const [row] = model.tags
    if (row !== undefined) model.visible = !off.has(row)
  }
}
for (const chip of document.querySelectorAll("button[data-row]")) {
  chip.addEventListener("click", () => {
    const { row } = chip.dataset
    off.has(row) ? off.delete(row) : off.add(row)
    for (const same of document.querySelectorAll("button[data-row]"))
      if (same.dataset.row === row) {
        same.classList.toggle("off", off.has(row))
        same.setAttribute("aria-pressed", String(!off.has(row)))
      }
    Bokeh.documents.forEach(show)
  })
}

const unpacked = async (text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text()
}
const begin = async () => {
  const library = document.getElementById("library")
  if (library) {
    const script = document.createElement("script")
    script.textContent = await unpacked(library.textContent)
    document.head.append(script)
  }
  const charts = JSON.parse(document.getElementById("charts").textContent)
  const seen = new IntersectionObserver((entries) => {
    for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
      seen.unobserve(target)
      Bokeh.embed.embed_item(charts[target.id], target.id).then(() => Bokeh.documents.forEach(show))
    }
  }, { rootMargin: "800px" })
  for (const place of document.querySelectorAll(".chart")) seen.observe(place)
}
begin()
