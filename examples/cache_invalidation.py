"""Drop cache entries when their rows change, whoever changes them (dogpile.cache)."""

from __future__ import annotations

from dogpile.cache import make_region
from embedded import as_another_program, embedded_engine
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_watch import Listener, Watched

region = make_region().configure("dogpile.cache.memory")


class Base(DeclarativeBase):
    pass


class Product(Watched, Base):
    __tablename__ = "products"
    __watch__ = ("updated", "deleted", "truncated")

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[int]


def price_of(engine: Engine, product_id: int) -> int | None:
    """The price, from the cache if it is there."""

    def load() -> int | None:
        with Session(engine) as session:
            product = session.get(Product, product_id)
            return None if product is None else product.price

    return region.get_or_create(f"price:{product_id}", load)


@Product.watch.updated.connect
@Product.watch.deleted.connect
def drop_price(sender, event):
    region.delete(f"price:{event.identity[0]}")
    print(f"{event.operation} product {event.identity[0]}: its price is dropped from the cache")


@Product.watch.truncated.connect
def drop_all_prices(sender, event):
    region.invalidate()


def drop_everything(listener, reason):
    """Something may have been missed (a lost connection, say): nothing in the cache can be trusted."""
    region.invalidate()


def main() -> None:
    with embedded_engine() as engine:
        Base.metadata.create_all(engine)
        as_another_program(engine, "INSERT INTO products VALUES (1, 'tea', 300), (2, 'coffee', 500)")
        with Listener(engine, Base) as listener:
            listener.resync.connect(drop_everything)
            print("tea costs", price_of(engine, 1), "and coffee", price_of(engine, 2))
            as_another_program(engine, "UPDATE products SET price = price + 50 WHERE name = 'tea'")
            as_another_program(engine, "DELETE FROM products WHERE name = 'coffee'")
            listener.catch_up()  # only an example has to wait here
            tea, coffee = price_of(engine, 1), price_of(engine, 2)
        print("tea costs", tea, "and coffee", coffee)
        if (tea, coffee) != (350, None):
            raise SystemExit("the cache is stale")


if __name__ == "__main__":
    main()
