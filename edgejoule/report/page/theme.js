// Runs before anything is shown, so that the page does not flash in the wrong colours.
"use strict";
(function () {
  var root = document.documentElement;
  root.classList.add("scripted");
  try {
    var kept = localStorage.getItem("edgejoule-theme");
    if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  } catch (error) { /* a browser may forbid storage to files from disk */ }
})();
