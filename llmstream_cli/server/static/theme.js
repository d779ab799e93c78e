// Before the page is drawn, so that one who chose the other theme sees no flash of this one.
"use strict";
try {
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "system";
} catch {
  document.documentElement.dataset.theme = "system"; // storage is switched off
}
