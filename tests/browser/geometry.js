// What is cut, overlaps or sticks out of its place in the page as it is shown now: sentences.
() => {
  const found = [];
  const root = document.scrollingElement;
  if (root.scrollWidth > innerWidth) found.push(`the page scrolls sideways: ${root.scrollWidth} over ${innerWidth}`);
  const name = (one) => `${one.tagName.toLowerCase()}${one.id ? `#${one.id}` : ""}.${one.getAttribute("class") ?? ""} "${(one.textContent ?? "").trim().slice(0, 40)}"`;
  const scrolls = (one) => one.closest(".scroll, nav.parts, textarea");
  const seen = (one) => one.checkVisibility({ checkVisibilityCSS: true, checkOpacity: true }) && one.getClientRects().length > 0;
  for (const one of document.body.querySelectorAll("*")) {
    if (one.namespaceURI !== "http://www.w3.org/1999/xhtml" || !seen(one)) continue;
    if (one.closest(".plot") || one.matches(".scroll, nav.parts, .skip, input, select, option")) continue;
    // Of an element within a line there is no width to stick out of.
    if (one.clientWidth && one.scrollWidth > one.clientWidth + 1) found.push(`cut: ${name(one)} ${one.scrollWidth} over ${one.clientWidth}`);
    const box = one.getBoundingClientRect();
    if (!scrolls(one) && box.width && (box.left < -1 || box.right > innerWidth + 1) && !one.matches(".skip")) found.push(`out of the window: ${name(one)}`);
  }
  // Blocks that follow each other must not lie on each other.
  for (const list of document.querySelectorAll(".part, #overview, .run, dl, tr, .controls, nav")) {
    if (!seen(list)) continue;
    const children = [...list.children].filter((one) => seen(one) && getComputedStyle(one).position === "static");
    children.forEach((one, place) => {
      const next = children[place + 1];
      if (!next) return;
      const a = one.getBoundingClientRect();
      const b = next.getBoundingClientRect();
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 1) found.push(`overlap: ${name(one)} and ${name(next)}`);
    });
  }
  // Figures: every text within its drawing, labels of an axis apart from each other.
  for (const plot of document.querySelectorAll(".plot.drawn")) {
    if (!seen(plot)) continue;
    const key = plot.getAttribute("aria-label");
    const frame = plot.getBoundingClientRect();
    for (const text of plot.querySelectorAll("svg.main-svg text")) {
      if (!text.textContent.trim() || !seen(text) || text.closest(".hoverlayer")) continue;
      const box = text.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) found.push(`out of the figure ${key}: "${text.textContent}"`);
    }
    const layers = [...plot.querySelectorAll("g.xaxislayer-above, g.yaxislayer-above")];
    const groups = layers.map((layer) => [...layer.querySelectorAll(".xtick text, .ytick text, .x2tick text, .y2tick text")]);
    groups.push([...plot.querySelectorAll(".legendtext")], [...plot.querySelectorAll(".annotation-text")]);
    groups.push([...plot.querySelectorAll(".g-xtitle text, .g-ytitle text, .legendtext")]);
    for (const texts of groups) {
      const boxes = texts.filter((one) => one.textContent.trim() && seen(one)).map((one) => [one, one.getBoundingClientRect()]);
      boxes.forEach(([one, a], place) => {
        for (const [other, b] of boxes.slice(place + 1)) {
          const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
          const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
          // Slanted labels have boxes wider than their letters.
          const slanted = /rotate\((?!0)/.test(one.getAttribute("transform") ?? "");
          if (!slanted && wide > 1.5 && high > 3) found.push(`overlap in ${key}: "${one.textContent}" and "${other.textContent}"`);
        }
      });
    }
  }
  return [...new Set(found)];
}
