// Tables say how many of their columns are out of view; without scripts, a line above them says that they scroll.
for (const box of document.querySelectorAll(".box")) {
  const heads = [...box.querySelectorAll("thead tr:last-child th")], hint = document.createElement("p");
  hint.className = "hint";
  box.before(hint);
  const look = () => {
    const frame = box.getBoundingClientRect(), from = heads[0].getBoundingClientRect().right;
    const hidden = heads.slice(1).filter((head) => {
      const place = head.getBoundingClientRect();
      return place.right > frame.right + 1 || place.left < from - 1;
    });
    hint.textContent = hidden.length ? `${hidden.length} of ${heads.length - 1} columns out of view: scroll the table sideways` : "";
  };
  if (heads.length) {
    box.addEventListener("scroll", look, { passive: true });
    new ResizeObserver(look).observe(box);
  }
}
