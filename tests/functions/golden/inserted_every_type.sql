CREATE OR REPLACE FUNCTION watch_specimens_inserted() RETURNS trigger LANGUAGE plpgsql
SET "DateStyle" = 'ISO, YMD'
SET "IntervalStyle" = 'postgres'
SET extra_float_digits = '1'
SET bytea_output = 'hex'
AS $watch$
-- sqlalchemy_watch 1 {"application": "", "schema": null, "table": "specimens", "label": "inserted", "carries": ["id", "small", "flag", "amount", "ratio", "words", "padded", "token", "day", "moment", "instant", "span", "data", "document", "tree", "numbers", "color", "address"]}
#variable_conflict use_column
<<watch>>
DECLARE
  watch_head pg_catalog.text;
  watch_single pg_catalog.text;
  watch_rows pg_catalog.text;
  watch_seen bigint;
  watch_room integer;
  watch_longest integer;
  watch_piece record;
  watch_resync pg_catalog.text;
BEGIN
  BEGIN
    SELECT CASE
      WHEN pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN NULL
      WHEN EXISTS (SELECT FROM watch_new OFFSET 1) OR pg_catalog.octet_length(pg_catalog.current_setting('sqlalchemy_watch.context', true)) > 332 THEN ''
      ELSE pg_catalog.concat(
        '{"v":1,"table":"specimens","label":"inserted","op":"inserted","columns":["id","small","flag","amount","ratio","words","padded","token","day","moment","instant","span","data","document","tree","numbers","color","address"],"schema":', pg_catalog.to_json(watch_specimens_inserted.tg_table_schema::pg_catalog.text),
        ',"txid":', pg_catalog.pg_current_xact_id(),
        ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
        ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
        ',"context":', coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null'), ',"rows":[',
        '[', coalesce(pg_catalog.int8up(r.id)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.int8up(r.small)::pg_catalog.text, 'null') || ',' || coalesce(r.flag::boolean::pg_catalog.text, 'null') || ',' || coalesce('"' || r.amount::numeric::pg_catalog.text || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.ratio::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.words::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.padded)::pg_catalog.text, 'null') || ',' || coalesce('"' || r.token::pg_catalog.uuid::pg_catalog.text || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.day)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.moment)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(pg_catalog.timezone('UTC', r.instant))::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.span::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce('"' || pg_catalog.encode(r.data::pg_catalog.bytea, 'hex') || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.document::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.tree::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.numbers::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.color::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.address)::pg_catalog.text, 'null'), ']]}')
    END
    INTO watch_single
    FROM watch_new AS r
    LIMIT 1;
  EXCEPTION WHEN OTHERS THEN
    IF pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN
      RETURN NULL;
    END IF;
    RAISE WARNING USING MESSAGE = pg_catalog.concat('sqlalchemy_watch: the rows of specimens/inserted could not be described: ', SQLERRM),
      HINT = 'The write itself succeeds. Bring the trigger functions up to date.';
    watch_head := pg_catalog.concat(
      '{"v":1,"table":"specimens","label":"inserted","op":"inserted","columns":["id","small","flag","amount","ratio","words","padded","token","day","moment","instant","span","data","document","tree","numbers","color","address"],"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
      ',"context":', 'null', ',"rows":[');
    watch_resync := 'the trigger function could not build the notification';
    PERFORM pg_catalog.pg_notify('watch_specimens_inserted', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
    RETURN NULL;
  END;
  IF pg_catalog.textne(watch_single, '') AND pg_catalog.int4le(pg_catalog.octet_length(watch_single), 7999) THEN
    watch_rows := pg_catalog.pg_notify('watch_specimens_inserted', watch_single)::pg_catalog.text;
    RETURN NULL;
  END IF;
  IF watch_single IS NULL THEN
    RETURN NULL;
  END IF;
  BEGIN
    watch_head := pg_catalog.concat(
      '{"v":1,"table":"specimens","label":"inserted","op":"inserted","columns":["id","small","flag","amount","ratio","words","padded","token","day","moment","instant","span","data","document","tree","numbers","color","address"],"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
      ',"context":', CASE WHEN pg_catalog.octet_length(coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null')::pg_catalog.text) > 2000 THEN 'null' ELSE coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null') END, ',"rows":[');
    watch_room := 7997 - pg_catalog.octet_length(watch_head);
    SELECT pg_catalog.string_agg(w.j, '],['), pg_catalog.count(*) INTO watch_rows, watch_seen FROM (
      SELECT coalesce(pg_catalog.int8up(r.id)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.int8up(r.small)::pg_catalog.text, 'null') || ',' || coalesce(r.flag::boolean::pg_catalog.text, 'null') || ',' || coalesce('"' || r.amount::numeric::pg_catalog.text || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.ratio::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.words::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.padded)::pg_catalog.text, 'null') || ',' || coalesce('"' || r.token::pg_catalog.uuid::pg_catalog.text || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.day)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.moment)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(pg_catalog.timezone('UTC', r.instant))::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.span::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce('"' || pg_catalog.encode(r.data::pg_catalog.bytea, 'hex') || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.document::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.tree::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.numbers::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.color::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.address)::pg_catalog.text, 'null') AS j
      FROM (SELECT * FROM watch_new LIMIT 51) AS r
    ) AS w;
    IF watch_seen <= 50 THEN
      watch_longest := pg_catalog.octet_length(watch_rows) + 2;
      watch_rows := '[' || watch_rows || ']';
    ELSE
      watch_seen := greatest(2400 * watch_seen / coalesce(pg_catalog.octet_length(watch_rows), 2000), 1);
      watch_rows := NULL;
      FOR watch_piece IN
        SELECT '[' || pg_catalog.string_agg(p.j, '],[') || ']' AS j,
          pg_catalog.max(pg_catalog.octet_length(pg_catalog.string_agg(p.j, '],[')) + 2) OVER () AS longest
        FROM (SELECT coalesce(pg_catalog.int8up(r.id)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.int8up(r.small)::pg_catalog.text, 'null') || ',' || coalesce(r.flag::boolean::pg_catalog.text, 'null') || ',' || coalesce('"' || r.amount::numeric::pg_catalog.text || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.ratio::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.words::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.padded)::pg_catalog.text, 'null') || ',' || coalesce('"' || r.token::pg_catalog.uuid::pg_catalog.text || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.day)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.moment)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(pg_catalog.timezone('UTC', r.instant))::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.span::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce('"' || pg_catalog.encode(r.data::pg_catalog.bytea, 'hex') || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.document::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.tree::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.numbers::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.color::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.address)::pg_catalog.text, 'null') AS j, pg_catalog.row_number() OVER () / watch.watch_seen AS piece
          FROM watch_new AS r) AS p
        GROUP BY p.piece ORDER BY p.piece
      LOOP
        watch_longest := watch_piece.longest;
        EXIT WHEN watch_longest > watch_room;
        IF pg_catalog.octet_length(watch_rows) + 1 + pg_catalog.octet_length(watch_piece.j) > watch_room THEN
          PERFORM pg_catalog.pg_notify('watch_specimens_inserted', pg_catalog.concat(watch_head, watch_rows, ']}'));
          watch_rows := watch_piece.j;
        ELSE
          watch_rows := pg_catalog.concat_ws(',', watch_rows, watch_piece.j);
        END IF;
      END LOOP;
    END IF;
    IF watch_longest > watch_room THEN
      watch_rows := NULL;
      FOR watch_piece IN
        SELECT '[' || coalesce(pg_catalog.int8up(r.id)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.int8up(r.small)::pg_catalog.text, 'null') || ',' || coalesce(r.flag::boolean::pg_catalog.text, 'null') || ',' || coalesce('"' || r.amount::numeric::pg_catalog.text || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.ratio::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.words::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.padded)::pg_catalog.text, 'null') || ',' || coalesce('"' || r.token::pg_catalog.uuid::pg_catalog.text || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.day)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.moment)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(pg_catalog.timezone('UTC', r.instant))::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.span::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce('"' || pg_catalog.encode(r.data::pg_catalog.bytea, 'hex') || '"', 'null') || ',' || coalesce(pg_catalog.to_json(r.document::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.tree::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.numbers::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.color::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(r.address)::pg_catalog.text, 'null') || ']' AS j, r.id AS k0
        FROM watch_new AS r
      LOOP
        IF pg_catalog.octet_length(watch_piece.j) > watch_room THEN
          watch_piece.j := '{"partial":[' || coalesce(pg_catalog.int8up(watch_piece.k0)::pg_catalog.text, 'null') || ']}';
          IF pg_catalog.octet_length(watch_piece.j) > watch_room THEN
            watch_piece.j := NULL;
            watch_resync := 'a row does not fit into a notification';
          END IF;
          CONTINUE WHEN watch_piece.j IS NULL;
        END IF;
        IF pg_catalog.octet_length(watch_rows) + 1 + pg_catalog.octet_length(watch_piece.j) > watch_room THEN
          PERFORM pg_catalog.pg_notify('watch_specimens_inserted', pg_catalog.concat(watch_head, watch_rows, ']}'));
          watch_rows := watch_piece.j;
        ELSE
          watch_rows := pg_catalog.concat_ws(',', watch_rows, watch_piece.j);
        END IF;
      END LOOP;
    END IF;
  EXCEPTION WHEN OTHERS THEN
    IF pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN
      RETURN NULL;
    END IF;
    RAISE WARNING USING MESSAGE = pg_catalog.concat('sqlalchemy_watch: the rows of specimens/inserted could not be described: ', SQLERRM),
      HINT = 'The write itself succeeds. Bring the trigger functions up to date.';
    watch_head := pg_catalog.concat(
      '{"v":1,"table":"specimens","label":"inserted","op":"inserted","columns":["id","small","flag","amount","ratio","words","padded","token","day","moment","instant","span","data","document","tree","numbers","color","address"],"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
      ',"context":', 'null', ',"rows":[');
    watch_resync := 'the trigger function could not build the notification';
    PERFORM pg_catalog.pg_notify('watch_specimens_inserted', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
    RETURN NULL;
  END;
  IF watch_rows IS NOT NULL THEN
    PERFORM pg_catalog.pg_notify('watch_specimens_inserted', pg_catalog.concat(watch_head, watch_rows, ']}'));
  END IF;
  IF watch_resync IS NOT NULL THEN
    PERFORM pg_catalog.pg_notify('watch_specimens_inserted', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
  END IF;
  RETURN NULL;
END
$watch$;

CREATE TRIGGER watch_specimens_inserted AFTER INSERT ON specimens REFERENCING NEW TABLE AS watch_new FOR EACH STATEMENT EXECUTE FUNCTION watch_specimens_inserted();
