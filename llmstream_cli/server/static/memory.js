// Small things that the browser keeps for the page: `localStorage` or, for the session of a tab,
// `sessionStorage`. Where it is full or switched off, they last as long as the page.

export function recall(storage, name) {
  try {
    return window[storage].getItem(name) ?? "";
  } catch {
    return "";
  }
}

export function remember(storage, name, value) {
  try {
    if (value) window[storage].setItem(name, value);
    else window[storage].removeItem(name);
  } catch {
    // See above.
  }
}
