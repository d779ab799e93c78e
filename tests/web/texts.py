"""An answer with all that Markdown has, as models write it."""

SHOWCASE = """# Recursion

A function that **calls itself** on a *smaller* problem, until one is so small that `n == 0`.

```python
def factorial(n: int) -> int:
    # the smallest problem has its answer
    return 1 if n == 0 else n * factorial(n - 1)
```

1. Take the problem apart
   - one step
   - and the rest
2. Trust the function with the rest

| n | factorial | note |
|--:|:---------:|------|
| 0 | 1 | the base |
| 5 | 120 | see [Wikipedia](https://en.wikipedia.org/wiki/Factorial) |

> Every recursion needs an end.

---

- a base case
- ~~an infinite loop~~"""
