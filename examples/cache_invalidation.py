"""Cache entries go when their rows change, whoever changes them, and none is stale for ever (dogpile.cache)."""

from __future__ import annotations

from dogpile.cache import make_region
from embedded import as_another_program, embedded_engine
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_watch import Listener, Watched
from sqlalchemy_watch.caching import invalidate

region = make_region().configure("dogpile.cache.memory")


class Base(DeclarativeBase):
    pass


class Product(Watched, Base):
    __tablename__ = "products"
    # A price of None is cached as well, for a product that is not there: so inserts have to be heard.
    __watch__ = ("inserted", "updated", "deleted", "truncated")

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[int]


def price_of(engine: Engine, product_id: int) -> int | None:
    """The price, from the cache if it is there. It is loaded in a session of its own, which has seen nothing older."""

    def load() -> int | None:
        print(f"loading the price of product {product_id}")
        with Session(engine) as session:
            product = session.get(Product, product_id)
            return None if product is None else product.price

    return region.get_or_create(f"price:{product_id}", load)


def main() -> None:
    with embedded_engine() as engine:
        Base.metadata.create_all(engine)
        as_another_program(engine, "INSERT INTO products VALUES (1, 'tea', 300), (2, 'coffee', 500)")
        with Listener(engine, Base) as listener:
            invalidate(region, Product, key=lambda row: f"price:{row['id']}", listener=listener)
            print("tea costs", price_of(engine, 1), "and coffee", price_of(engine, 2), "and cocoa", price_of(engine, 3))
            as_another_program(engine, "UPDATE products SET price = price + 50 WHERE name = 'tea'")
            as_another_program(engine, "DELETE FROM products WHERE name = 'coffee'")
            as_another_program(engine, "INSERT INTO products VALUES (3, 'cocoa', 400)")
            listener.catch_up()  # only an example has to wait here
            tea, coffee, cocoa = (price_of(engine, product_id) for product_id in (1, 2, 3))
        print("tea costs", tea, "and coffee", coffee, "and cocoa", cocoa)
        if (tea, coffee, cocoa) != (350, None, 400):
            raise SystemExit("the cache is stale")


if __name__ == "__main__":
    main()
